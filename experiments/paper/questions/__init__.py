"""The paper's four questions, and the networks that they are asked of; one package each."""
