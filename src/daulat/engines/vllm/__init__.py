"""vLLM on CPU and NVIDIA, and on Ascend through its plugin."""
