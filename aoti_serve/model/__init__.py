"""One package on one device: it is made, read and run, and its weights are changed.

Making:   export, program/ (what is compiled)
Reading:  package, archive/ (the file), foreign/ (packages made by plain torch), loading
Running:  container (the whole), gate (entry), arguments (inputs and outputs), variants (batch sizes), device/ (CPU,
          card: memory and streams), aoti/ (the native runtime)
Changing: versions (the steps), buffers, weights_in (as tensors, as bytes), trial (a run before the commit),
          acceptance/ (golden requests), preparation/ (what staging makes of weights)

tensor_memory reads tensors for all of them.
"""
