"""Question 4: is flow matching simpler?"""
