"""Diffusion models: images become noise step by step, and a network learns to remove the noise.

An image x_0 and normal noise eps make x_t = alpha_t x_0 + sigma_t eps. A network that predicts x_0
with the squared error learns the mean E[x_0 | x_t]. That is enough to draw new images: it gives the
score, grad log p(x_t) = (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2, and with it both the stochastic
process and the ordinary differential equation that lead from noise back to images.

Read in this order; each file builds on those before it (docs/notation.md has the symbols).

    noise_schedule      alpha_t and sigma_t at every time; the Gaussians between two times (DDPM's
                        betas and posteriors); schedules lists all kinds
    parameterization    what the network predicts: eps, x_0, v, ... are rows of one table
    denoiser            x_t -> x_0 and eps: the protocol, the network's denoiser, clipping
    time_sampling, loss training: at which times, and what an error counts there
    grid, samplers/     sampling: at which times, and how a step is made
    guidance            a denoiser around a denoiser: towards a label, or away from a weaker model
    likelihood          bits per dimension, by the variational bound and by the equation
    editing             inversion, inpainting, image to image, watching the model denoise
    diffusion_model     all of it in one model that is trained and sampled
"""
