"""Question 2: how are ODE and SDE models unified?"""
