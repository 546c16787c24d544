"""Everything else of a run. What the ``train`` of a config leaves out is as it stands here."""

train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=180_000,  # 2x
    amp=dict(enabled=False, dtype="float16"),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=None),  # None keeps all
    eval_period=0,  # 0 evaluates at the end alone
    log_period=20,
    device="cuda",
    seed=-1,  # -1 chooses one
    cudnn_benchmark=False,
    # gn_det's own; the YAML's keys of the same names say what they do
    clip_global_norm=0.0,
    ema_decay=0.0,
    ims_per_step=0,
    best_metric="bbox/AP",
    on_save_error="stop",
    allow_frozen_random=False,
    allow_random_backbone=False,
    ignore_class_names=False,
    deterministic=False,
)
