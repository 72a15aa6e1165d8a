"""Training of StyleGAN2 priors, behind ``gprior train``."""
