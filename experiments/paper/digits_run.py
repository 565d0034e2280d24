"""The model of digits that the questions are asked of: that of `make demo`."""

from experiments.paper import part, plane_run, trained


def measure(setting: part.Setting) -> part.Findings:
  facts = trained.facts(trained.digits(setting))
  rows = [["what", "value"], ["command", facts["command"]],
          ["trained at commit", facts["commit"]],
          ["parameters", f"{facts['parameters']:,}"],
          ["steps × batch", f"{facts['steps']:,} × {facts['batch']}"],
          ["training time", f"{facts['seconds']:.0f} s"]]
  claims = [part.claim(
      "Training lowers the loss: the last value over the first.",
      facts["loss"][-1] / facts["loss"][0], below=1.0, source="§5")]
  return part.Findings(
      claims, facts, {"loss": plane_run.LOSS_CAPTION}, [part.Table("The run", rows)])


PART = part.Part(
    name="digits_run", title="The model of digits", measure=measure,
    figures=plane_run.loss_figure,
    text="""A small diffusion transformer on scikit-learn's 8 × 8 handwritten digits: the run of
the README's first command; shorter where the report was made with --fast.""")

if __name__ == "__main__":
  part.main(PART)
