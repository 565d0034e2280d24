"""The paper, reproduced: its tables, figures and questions, one module each, and their report."""
