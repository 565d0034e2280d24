"""Question 1 of a trained network: at which noise levels does it break duality?"""
