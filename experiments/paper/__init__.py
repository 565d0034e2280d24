"""The paper, reproduced: its tables, figures and questions, one module each, and their report.

`python -m experiments.paper` runs them all. A part is a module of its own command (`part.py` says
what one is); beside it stand those that only it uses.

  tables          symbolic, mathml, formulas, printed, cells, comparison, layouts; errata, limits
  identity        Figure 1; identity_pictures
  clouds          Figure 2; clouds_pictures
  steps           Figures 3 and 4; steps_pictures
  trajectories    Figure 5; curves, trajectory_figures
  cycle           Figures 6 and 7; cycle_pictures
  duality         question 1; duality_line, _plane, _pictures; with --workdir the certificate
  certificate     question 1 of a trained run; certificate_network, _walks, _bound, _words,
                  _pictures
  stochasticity   question 2; eta_runs, eta_figures
  vae             question 3; vae_training, _bounds, _plane, _digits, _tables, _pictures
  flow_matching   question 4; readings, heads, head_samples, flow_figures
  appendix        A.1–A.4; identities, appendix_figures
  plane_run, digits_run   the networks that the questions are asked of; trained

Shared: densities, what is modelled; laws, exact laws of samplers on the line; plane, distances and
contours; planned, samplers as data; report, the page; explorer, the page to play with.
"""
