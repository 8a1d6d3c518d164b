"""What the Wan models share in the pipeline's child process: component folders, tiny builders, keyframes, latents, the render call.

Modules other than `plan` import torch, so only a model's own pipeline modules import them.
"""
