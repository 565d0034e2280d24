"""The model in the plane that the questions are asked of: trained on draws of the density."""

from experiments.metrics import mixture_metrics
from experiments.paper import part, trained
from langevin_jax import paths


def measure(setting: part.Setting) -> part.Findings:
  workdir = trained.plane(setting)
  found, facts = trained.model(workdir), trained.facts(workdir)
  truth = trained.truth(setting.density.plane, found.run)
  kl, mass = mixture_metrics.model_kl(found.run, truth, found.params, paths.ve(),
                            points=60 if setting.fast else 120)
  rows = [["what", "value"], ["command", facts["command"]],
          ["trained at commit", facts["commit"]],
          ["parameters", f"{facts['parameters']:,}"],
          ["steps × batch", f"{facts['steps']:,} × {facts['batch']}"],
          ["training time", f"{facts['seconds']:.0f} s"],
          ["KL(data‖model) of its probability-flow ODE, nats, by quadrature", part.number(kl)]]
  claims = [part.claim(
      "The model's density, from its probability-flow ODE, sums to one over the plane.", mass,
      near=1.0, tolerance=0.01, source="theory.md#likelihood")]
  return part.Findings(
      claims, {**facts, "kl": kl}, {"loss": LOSS_CAPTION},
      [part.Table("The run", rows)])


LOSS_CAPTION = "The loss that was minimised, averaged over each stretch of steps."


def loss_figure(data: dict) -> dict:
  """The loss by step."""
  figure, axes = part.plt.subplots(figsize=(6.0, 3.2))
  axes.plot(data["loss_steps"], data["loss"], color=part.ACCENT)
  axes.set(xlabel="step", ylabel="loss")
  return {"loss": figure}


PART = part.Part(
    name="plane_run", title="The model in the plane", measure=measure, figures=loss_figure,
    text="""The questions below are asked of the exact score, and of a network that has learned it.
This is that network: a small MLP, trained by the project's own runner on draws of the density. It
knows no path: along VP, VE and rectified flow alike it is the same function.""")

if __name__ == "__main__":
  part.main(PART)
