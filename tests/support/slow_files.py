"""Test files that ``make test-fast`` leaves out: they start processes, wait, train
for long, draw, or interpret GPU kernels.

Chosen by measured CPU time. Every folder keeps tests outside this list.
"""

from __future__ import annotations

from typing import Final

SLOW_FILES: Final = (
    "bench/step/test_peers.py",
    "bench/test_labels.py",
    "bench/test_papers.py",
    "bench/test_scale.py",
    "bench/test_serve.py",
    "bench/test_step.py",
    "bench/test_stream.py",
    "cli/analyze/test_commands.py",
    "daemon/test_log_changes.py",
    "daemon/test_state_folder.py",
    "datasets/test_real_files.py",
    "experiments/report/page/test_access.py",
    "experiments/report/page/test_page.py",
    "experiments/watcher/test_process.py",
    "experiments/watcher/test_verdicts.py",
    "experiments/watcher/test_watcher.py",
    "kernels/test_cache.py",
    "learners/compiled/test_bits.py",
    "learners/cuda/fused/test_learner.py",
    "learners/cuda/test_learner.py",
    "learners/test_moments.py",
    "learners/test_row_room.py",
    "learners/torch/test_batch.py",
    "learners/torch/test_learner.py",
    "metrics/test_curve_plot.py",
    "models/test_learning.py",
    "offline/test_encoded.py",
    "offline/test_fit.py",
    "offline/test_warm_start.py",
    "pipeline/ordering/test_far_ahead.py",
    "predictors/test_river_forward.py",
    "predictors/test_torch_forward.py",
    "river/test_classifier.py",
    "river/test_classifier_checks.py",
    "river/test_docs.py",
    "serving/http/test_certificates.py",
    "serving/http/test_load_shedding.py",
    "serving/http/test_openapi.py",
    "serving/http/test_upgrade.py",
    "serving/routing/test_steering.py",
    "serving/test_server.py",
    "serving/test_workers.py",
    "simulators/test_closed_loop.py",
    "simulators/test_closed_loop_resume.py",
    "simulators/test_demo.py",
    "simulators/test_freshness.py",
    "simulators/test_rank_client.py",
    "simulators/test_writing.py",
    "training/test_daemon.py",
    "training/test_restart.py",
    "training/test_threads.py",
    "training/test_without_torch.py",
)
