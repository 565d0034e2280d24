"""Question 3: why is a diffusion model better than a VAE?"""
