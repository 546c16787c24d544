"""The config keys that gn_det adds to Detectron2's.

The comment of a key says what it means, which values it takes, its default, and why.
"""

from detectron2.config import CfgNode

from .errors import ConfigError

__all__ = ["add_gn_config", "require_gn_config"]


def require_gn_config(cfg: CfgNode) -> None:
    """Refuse a config without gn_det's keys, before a function of ours reads them.

    Args:
        cfg: Any config.

    Raises:
        ConfigError: It is Detectron2's alone.
    """
    if "GN" not in cfg.get("MODEL", ()):
        raise ConfigError(
            "The config has no MODEL.GN: it lacks gn_det's keys. Start from gn_det.get_cfg(), or "
            "call gn_det.add_gn_config(cfg) before files are merged into it.",
            "MODEL.GN",
        )


def add_gn_config(cfg: CfgNode) -> None:
    """Add gn_det's keys to ``cfg``, in place. No other config and no default is changed.

    Args:
        cfg: A config of Detectron2 that is not frozen. It may have keys of other projects.
    """
    _C = cfg

    _C.MODEL.GN = type(cfg)()

    # The number of groups of every norm called "GN" in
    # MODEL.{RESNETS,VGG,FPN,ROI_BOX_HEAD,ROI_MASK_HEAD}.NORM. It has to divide the channels of each
    # of them. Default: 32, as in the paper and in all published GN weights. (In table 3 of the
    # paper, 64 to 2 groups cost at most 0.6% top-1 accuracy.)
    _C.MODEL.GN.NUM_GROUPS = 32

    # The number of channels in a group, in place of the number of groups. 0 (default) uses
    # NUM_GROUPS. 16 is the best fixed number in table 3. It helps where layers differ in width and
    # 32 does not divide the channels of all of them.
    _C.MODEL.GN.CHANNELS_PER_GROUP = 0

    # The epsilon that is added to the variance. Default: 1e-5, as in the paper and in all published
    # GN weights.
    _C.MODEL.GN.EPS = 1e-5

    # Whether the scale of the last norm of each residual branch starts at 0, so that a block starts
    # as the identity. False (default): a detector starts from pre-trained norms, and the paper's
    # from-scratch models start at 1. True is what the paper uses to train on ImageNet (section
    # 4.1).
    _C.MODEL.GN.ZERO_INIT_RESIDUAL = False

    # Whether to use Weight Standardization (arXiv:1903.10520): a convolution with
    # (w - mean) / (std + 1e-5), with the mean and std of each filter of w. It applies to each
    # convolution of the backbone, FPN, box head and mask head that a norm follows. Set it to True
    # for weights that were pre-trained with it, and only for those. False (default): the Group
    # Normalization paper does not use it.
    _C.MODEL.GN.WEIGHT_STANDARDIZATION = False

    # Activation checkpointing: what training stores for the backward pass in the parts with GN. The
    # results are the same.
    # "standard" (default): what PyTorch stores by itself, 1.7 to 1.9 times FrozenBN's memory.
    # "lean": the outputs of norms are recomputed. 0.84 to 0.95 times FrozenBN's memory, and up to
    #     5% more time than standard (13% in bfloat16 with channels_last).
    # "minimal": blocks, FPN and heads store only their inputs and are recomputed. 0.31 to 0.44
    #     times FrozenBN's memory, and up to a third more time than standard.
    # Parts with FrozenBN use the mode too, parts with unfrozen BN never do. `gn-det estimate` says
    # which mode fits into the memory; docs/performance.md has measurements.
    _C.MODEL.GN.MEMORY = "standard"

    # Whether random layers may stay frozen. False (default) refuses MODEL.WEIGHTS "" with
    # MODEL.BACKBONE.FREEZE_AT > 0 or with FrozenBN, and weights that do not fill all that is
    # frozen, because such a model trains without an error and loses AP. True allows it.
    _C.MODEL.GN.ALLOW_FROZEN_RANDOM = False

    # Whether MODEL.WEIGHTS may leave the backbone random. False (default) refuses a file that fills
    # less than a tenth of its tensors, because such a file is of another network or has other
    # names. True is for a backbone from scratch below heads that were trained.
    _C.MODEL.GN.ALLOW_RANDOM_BACKBONE = False

    # Whether features and convolutions of our backbones, FPN and heads use PyTorch's channels_last
    # memory format. It is faster on CPUs with AMX, most of all in bfloat16, and slower with images
    # as small as the demo's. It was not measured on GPUs. Results differ by rounding, and weights
    # fit both. False (default): like Detectron2.
    _C.MODEL.CHANNELS_LAST = False

    # VGG backbones: MODEL.BACKBONE.NAME build_gn_vgg_backbone and build_gn_vgg_fpn_backbone.
    _C.MODEL.VGG = type(cfg)()

    # The depth: 11, 13, 16 (default, as in the paper) or 19. The number counts the convolutions
    # and VGG's three fully connected layers, which a backbone does not have.
    _C.MODEL.VGG.DEPTH = 16

    # The norm after every convolution, one of the names in docs/norms.md. "" (default) is VGG as it
    # was published; its convolutions have a bias.
    _C.MODEL.VGG.NORM = ""

    # The number of channels of vgg1; vgg2 to vgg5 have 2, 4, 8 and 8 times as many. Default: 64,
    # as in VGG.
    _C.MODEL.VGG.BASE_CHANNELS = 64

    # The feature maps that the backbone returns, of vgg1 to vgg5 (stride 1 to 16, before their
    # pooling) and pool5 (stride 32). ["vgg5"] (default) is for a backbone with one feature map;
    # [vgg3, vgg4, vgg5, pool5] is for an FPN from p2 on.
    _C.MODEL.VGG.OUT_FEATURES = ["vgg5"]

    # The classifier of pre-training: MODEL.META_ARCHITECTURE ImageClassifier.
    _C.MODEL.CLASSIFIER = type(cfg)()

    # The number of classes. Default: 1000, as in ImageNet.
    _C.MODEL.CLASSIFIER.NUM_CLASSES = 1000

    # Pre-training of backbones by `gn-det pretrain`. The defaults are those of section 4.1.
    _C.PRETRAIN = type(cfg)()

    # The training data, with val for the evaluation:
    # "image_folder" (default): the images in the folders of PRETRAIN.ROOT.
    # "fashion_mnist": 60,000 and 10,000 images of ten kinds of clothes, grey, 28x28 pixels. Its
    #     four files are searched in PRETRAIN.ROOT, then where Debian's package
    #     dataset-fashion-mnist puts them.
    # "photo_digit_crops": crops of the objects in the embedded detection dataset, ten digits.
    # "moving_digits": 4,000 and 1,000 clips of 8 frames, nine directions of motion. They are for
    #     video networks (MODEL.BACKBONE.NAME build_gn_inflated_resnet_backbone).
    _C.PRETRAIN.DATASET = "image_folder"

    # The folder with train/CLASS/IMAGE and val/CLASS/IMAGE. A relative path is searched in the
    # working directory, then in $DETECTRON2_DATASETS (or ./datasets where that is not set).
    _C.PRETRAIN.ROOT = "imagenet"

    # The number of training images, for studies of minutes: the first ones of a shuffled order that
    # is always the same. 0 (default) uses all images. An epoch has this number of images.
    _C.PRETRAIN.TRAIN_IMAGES = 0

    # The number of images of val, chosen in the same way. 0 (default) uses all images.
    _C.PRETRAIN.VAL_IMAGES = 0

    # The schedule in epochs: its length, and the epochs after which the learning rate is multiplied
    # by SOLVER.GAMMA. Defaults: those of the paper. SOLVER.MAX_ITER and SOLVER.STEPS follow from
    # them and from the number of images. A config that sets these two, TEST.EVAL_PERIOD or
    # SOLVER.BEST_METRIC is refused.
    _C.PRETRAIN.EPOCHS = 100
    _C.PRETRAIN.STEPS = (30, 60, 90)

    # The number of epochs between evaluations, and between checkpoints where
    # SOLVER.CHECKPOINT_PERIOD (in iterations) is not set. Default: 1.
    _C.PRETRAIN.EVAL_PERIOD = 1

    # The batch size that SOLVER.BASE_LR is meant for. The learning rate is
    # BASE_LR * SOLVER.IMS_PER_BATCH / REFERENCE_BATCH (the linear scaling rule of Goyal et al.
    # 2017). Default: 256, as in that paper.
    _C.PRETRAIN.REFERENCE_BATCH = 256

    # The side, in pixels, of the square that the network gets. Default: 224. In the evaluation of
    # an image_folder, the shorter side of an image is resized to RESIZE, and the square is cut out
    # of its middle. RESIZE 0 (default) is 256/224 times CROP, the paper's share. Images of the
    # other sources are resized to CROP, and RESIZE does not apply to them.
    _C.PRETRAIN.CROP = 224
    _C.PRETRAIN.RESIZE = 0

    # The area of a training crop as a share of the image's area. This key and the next two are for
    # image_folder; the other sources have a weak augmentation of their own (docs/pretraining.md).
    # Default: the range of fb.resnet.torch, which the paper uses.
    _C.PRETRAIN.CROP_AREA = (0.08, 1.0)

    # The largest share by which brightness, contrast and saturation are each changed. 0 changes
    # nothing. Default: 0.4, as in fb.resnet.torch.
    _C.PRETRAIN.COLOR_JITTER = 0.4

    # The standard deviation of the noise along the principal components of ImageNet's colours
    # (Krizhevsky et al. 2012). 0 adds none, and INPUT.FORMAT L has no colours. Default: 0.1, as
    # there.
    _C.PRETRAIN.LIGHTING = 0.1

    # Whether each evaluation writes the 1st, 20th, 80th and 99th percentile of the output of the
    # backbone's last convolution, before its norm and ReLU, as in the paper's figure 6. Default:
    # False, because few need it.
    _C.PRETRAIN.RESPONSE_PERCENTILES = False

    # Whether a GPU gives the same bits each time, as a CPU does: two runs with the same SEED (and
    # the same GPU, number of processes and versions) then end with the same weights. It allows only
    # PyTorch's deterministic algorithms, which take more time, and turns CUDNN_BENCHMARK off. An
    # operation without such an algorithm is an error; none in our configs is (docs/reliability.md).
    # False (default): like Detectron2, sums on a GPU are added in the fastest order.
    _C.DETERMINISTIC = False

    # Your own datasets, which DATASETS.TRAIN and TEST can then name:
    # [[name, json file, folder of images], ...]. Paths are relative to the working directory. A
    # fourth item names a format other than "coco" (gn_det/data/formats.py has them). The datasets
    # are registered with Detectron2 when a command reads the config, or by
    # gn_det.data.register_datasets(cfg). () (default): none.
    _C.DATASETS.REGISTER = ()

    # The number of detections of a class on an image that COCO's box and mask AP count: those with
    # the highest scores (pycocotools' maxDets). An image with more objects of a class cannot have
    # an AP of 100. 0 (default): COCO's 100, or TEST.DETECTIONS_PER_IMAGE where that is more: all
    # that the model returns counts. 100: COCO's AP, whatever the model returns.
    _C.TEST.MAX_DETECTIONS = 0

    # Images with more than 8 bits a channel (16 or 32 bits, or floats): the values [low, high] of
    # the file that become 0 and 255. What lies outside becomes 0 or 255, and so does NaN become 0.
    # An end such as "0.5%" is a percentile of each image by itself: ["0.5%", "99.5%"]. Such images
    # cannot be read without it, as their values would be cut off at 255. () (default): all images
    # have 8 bits. Those that have are read as they are in either case.
    _C.INPUT.WINDOW = ()

    # Whether the names of classes are compared. False (default): weights that hold the names of
    # their classes are refused in an evaluation or a resumed run whose dataset has other names or
    # another order, because class number k would be another class. True compares none: class k of
    # the weights is class k of the dataset. Set it where classes were only renamed.
    _C.DATASETS.IGNORE_CLASS_NAMES = False

    # The data type of mixed precision where SOLVER.AMP.ENABLED is True. "float16" (default, as in
    # Detectron2) has a loss scaler and needs a GPU. "bfloat16" has no scaler; it works on GPUs, and
    # on CPUs it is faster where they have AMX or AVX512-BF16.
    _C.SOLVER.AMP.DTYPE = "float16"

    # The largest norm of the gradient of all parameters together; a larger gradient is scaled down
    # to it. It prevents exploding losses with short warm-ups from scratch. Detectron2's
    # SOLVER.CLIP_GRADIENTS clips each parameter by itself, which changes the direction of the step.
    # 0 (default) does not clip.
    _C.SOLVER.CLIP_GLOBAL_NORM = 0.0

    # The decay of an exponential moving average (EMA) of the weights, in [0, 1). 0.9998, for
    # example, averages over about the last 1 / (1 - 0.9998) = 5000 steps. Evaluations and the
    # "model" in checkpoints then use the average; checkpoints also have the weights themselves, to
    # resume from. It takes 4 bytes for each trained parameter. 0.0 (default): no average, like the
    # paper and Detectron2.
    _C.SOLVER.EMA_DECAY = 0.0

    # Gradient accumulation: the number of images in a micro-batch, that is, in one forward pass of
    # one process. 0 (default): the process's whole share of IMS_PER_BATCH, like Detectron2. 1
    # trains the paper's schedule of 16 images a step on one small GPU: 16 micro-batches accumulate
    # their gradients, and the learning rate and iterations do not change. With GN, the result is
    # that of 16 GPUs with one image each (docs/scaling.md); with unfrozen BN it is not.
    _C.SOLVER.IMS_PER_STEP = 0

    # The number of past checkpoints to keep, besides the final and the best one. 0 (default) keeps
    # all, like Detectron2; each of R50 with its optimizer has 350 MB.
    _C.SOLVER.KEEP_CHECKPOINTS = 0

    # The metric of the best checkpoint, model_best.pth: the one with the highest value so far.
    # It is compared after each evaluation of TEST.EVAL_PERIOD. "" keeps no best checkpoint.
    # Default: "bbox/AP", because every detector has it.
    _C.SOLVER.BEST_METRIC = "bbox/AP"

    # What a run does when it cannot save a checkpoint (the disk is full, the folder is read-only).
    # "stop" (default) ends the run, so that no work is lost unnoticed. "continue" trains on without
    # this checkpoint, and tries again at the next one. The last good checkpoint is kept in both
    # cases.
    _C.SOLVER.ON_SAVE_ERROR = "stop"
