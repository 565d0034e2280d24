"""Where a trained run breaks duality."""


def main(workdir: str) -> None:
  raise ValueError(f"--workdir {workdir}: not measured yet")
