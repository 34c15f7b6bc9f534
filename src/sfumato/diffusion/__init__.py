"""Diffusion models: noise is added to images step by step, and a network learns to take it away.

An image x_0 and normal noise eps make x_t = alpha_t x_0 + sigma_t eps. A network that is asked for
x_0, with the squared error, learns the mean E[x_0 | x_t]. That is enough to draw new images: it
gives the score, grad log p(x_t) = (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2, and with it both the
stochastic process and the ordinary differential equation that lead from noise back to images.

Read in this order; each file rests on those before it (docs/notation.md has the symbols).

    schedule, table, discrete_schedules, continuous_schedules
                        alpha_t and sigma_t: how much of the image is left at time t
    transition          the Gaussians between two times: DDPM's betas and posteriors
    parameterization    what the network is asked for: eps, x_0, v, ... are rows of one table
    denoiser            a network, a schedule and a parameterization: x_t -> x_0 and eps
    time_sampling, weighting, loss, bound
                        training: at which times, what an error counts there, and the error
    grid, clip, samplers/
                        sampling: at which times, and how a step is made
    guidance, classifier_guidance
                        towards a label, or away from a weaker model
    likelihood          bits per dimension, by the variational bound and by the equation
    edit                inversion, inpainting, interpolation, and looking at the denoising
    model               all of it in one trainable, sampleable thing
"""
