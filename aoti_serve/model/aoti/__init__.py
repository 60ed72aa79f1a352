"""The only code that touches AOTInductor's native runtime.

`NativeContainer` and `StockContainer` have the same methods. Each is one loaded library with an active and an inactive
constant buffer. Neither checks anything, and each must be left alone while `swap` or `delete` run.
"""
