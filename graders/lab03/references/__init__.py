"""What auto-gptq and llmcompressor make of the same layers, recorded.

Neither library lives in a lab's own environment: each wants another transformers. So their scripts
(`run_autogptq.py`, `run_llmcompressor.py`) run in environments of their own, and what they made is
recorded here: `autogptq.json` and `llmcompressor.json` (layer errors at equal settings, with
versions and the hash of the weights) and `autogptq_layers.safetensors` (two small layers packed by
auto-gptq itself). `python3 noxfile.py -s lab03-references-autogptq lab03-references-llmcompressor`
makes all of them again. `.nox/lab03-gptq`, the environment of the first, is made by the session
`lab03`, too: there auto-gptq loads and runs the submission's own checkpoint.
"""
