"""One package on one device: it is made, read and run, and its weights are changed.

Making:   export, program/ (what is compiled)
Reading:  package, archive/ (the file), foreign/ (packages made by plain torch), loading
Running:  container (the whole), gate (entry), arguments (inputs and outputs), run (one of them), variants (static
          sizes), device/ (CPU, card: memory and streams), aoti/ (the native runtime)
Changing: resident/ (the versions in memory), weights_in (as tensors, as bytes), preparation/ (what staging makes of
          weights), acceptance (a run, and golden requests, before the commit)

tensor_memory reads tensors for all of them.
"""
