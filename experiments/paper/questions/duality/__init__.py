"""Question 1: how does the reverse process invert the forward one?"""
