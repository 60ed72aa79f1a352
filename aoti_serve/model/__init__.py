"""One package on one device: how it is made, read and run, and how its weights are changed.

Making:   export, program/ (what is compiled)
Reading:  package, archive/ (the file), foreign/ (packages made by plain torch), loading
Running:  container (the face), gate (admission), arguments (inputs and outputs), variants (batch sizes), device/ (CPU,
          card: memory and streams), aoti/ (the native runtime)
Changing: versions (the steps), buffers, weights_in/ (as bytes, as tensors), trial (a run before the commit)

tensor_memory says whether a tensor can be read, and what is in it.
"""
