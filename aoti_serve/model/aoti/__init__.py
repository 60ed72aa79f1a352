"""The only code that touches AOTInductor's native runtime."""
