"""The learner of fused Triton kernels."""
