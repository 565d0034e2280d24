"""The paper's figures; one package each."""
