"""One package on one device: making it, reading it, running it, and changing its weights.

Making:  export, program/ (what is compiled), signature, tree
Reading: package, archive/ (the file), elsewhere/ (packages made by plain torch), loading
Running: container, gate (admission), calls (inputs, outputs), intake (weights: the checks), filling (weights: a file's
         bytes), readable (tensors), buffers, device (memory, streams), variants (batch sizes), aoti/ (the native
         runtime)
"""
