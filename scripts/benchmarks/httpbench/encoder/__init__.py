"""The sentence encoder of examples/sentences, beside its original library behind FastAPI and Ray Serve.

`field` says who takes part, `texts` what is asked, `answers` whether it is answered rightly.
"""
