"""Own kernels and the layers that use them."""
