import pickle

import pytest
import torch
from PIL import Image

import vactk.torchvision_ops  # noqa: F401, before open_clip, which brings torchvision

# isort: split
import open_clip

from tests.video.conftest import draw_frame
from vactk.errors import VactkError
from vactk.video.transforms import TransformConfig, eval_transform, train_transform

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
VARIED = {
    "plain": TransformConfig(),
    "jitter": TransformConfig(crop="jitter", short_side=(40, 60)),
    "everything": TransformConfig(
        randaugment_ops=4, randaugment_magnitude=5, color_jitter=(0.4, 0.4, 0.4, 0.1), erasing=1.0
    ),
}


def view(num_frames: int = 4, height: int = 90, width: int = 120) -> torch.Tensor:
    """Drawn frames, uint8 (T, 3, H, W), laid out in memory as the reader does."""
    frames = [torch.from_numpy(draw_frame(number, height, width)) for number in range(num_frames)]
    return torch.stack(frames).permute(0, 3, 1, 2)


def unit_scale(size: int = 32) -> dict:
    """Settings under which the output is the pixels, 0 to 1."""
    return {"size": size, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize("config", VARIED.values(), ids=VARIED)
def test_training_treats_all_frames_of_a_view_alike(config):
    transform = train_transform(config, 32, MEAN, STD)
    still = view(1).expand(4, -1, -1, -1)
    before = still.clone()
    for seed in range(8):
        torch.manual_seed(seed)
        frames = transform(still)
        assert (frames.shape, frames.dtype) == ((4, 3, 32, 32), torch.float32)
        torch.testing.assert_close(frames, frames[:1].expand_as(frames), rtol=0, atol=0)
    assert torch.equal(still, before)


@pytest.mark.parametrize("config", VARIED.values(), ids=VARIED)
def test_training_is_random_by_torch_alone(config):
    transform = pickle.loads(pickle.dumps(train_transform(config, 32, MEAN, STD)))

    def draw(seed):
        torch.manual_seed(seed)
        return transform(view())

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_no_flip_when_left_and_right_matter():
    ramp = torch.arange(0, 240, 2, dtype=torch.uint8).expand(2, 3, 90, 120)
    never = train_transform(TransformConfig(flip=0.0), **unit_scale())
    always = train_transform(TransformConfig(flip=1.0), **unit_scale())
    for seed in range(10):
        torch.manual_seed(seed)
        assert (never(ramp).diff(dim=-1) >= 0).all()
        torch.manual_seed(seed)
        assert (always(ramp).diff(dim=-1) <= 0).all()


def test_short_side_jitter_covers_its_range():
    transform = train_transform(TransformConfig(crop="jitter", short_side=(32, 64), flip=0.0), **unit_scale())
    slope = torch.arange(0, 240, 2, dtype=torch.uint8).expand(1, 3, 90, 120)
    sides = [90 * (2 / 255) / float(transform(slope).diff(dim=-1)[..., 8:24].mean()) for _ in range(60)]
    assert 30 < min(sides) < 38
    assert 58 < max(sides) < 68


def test_erasing_leaves_the_mean():
    torch.manual_seed(0)
    frames = train_transform(TransformConfig(erasing=1.0), 32, MEAN, STD)(view())
    assert 0.02 <= (frames == 0).all(dim=1).float().mean() <= 0.34


@pytest.mark.parametrize("shape", [(90, 120), (120, 90), (64, 64), (33, 200)])
def test_evaluation_equals_open_clips_preprocessing(shape):
    preprocess = open_clip.image_transform(48, is_train=False, mean=MEAN, std=STD)
    frames = view(2, *shape)
    (ours,) = eval_transform(TransformConfig(), 48, MEAN, STD)(frames)
    theirs = torch.stack([preprocess(Image.fromarray(frame.permute(1, 2, 0).numpy())) for frame in frames])
    difference = (ours - theirs).abs() * torch.tensor(STD)[:, None, None] * 255  # in steps of 8-bit pixels
    assert difference.max() < 1.5
    assert difference.mean() < 0.1


@pytest.mark.parametrize("starts", [(0, 48, 96), (0, 24, 48, 96)])
@pytest.mark.parametrize(("shape", "along"), [((64, 160), -1), ((160, 64), -2)])
def test_crops_lie_along_the_longer_side(shape, along, starts):
    transform = eval_transform(TransformConfig(eval_crops=len(starts)), **unit_scale(64))
    frames = view(2, *shape)
    crops = transform(frames)
    assert crops.shape == (len(starts), 2, 3, 64, 64)
    for crop, start in zip(crops, starts, strict=True):
        torch.testing.assert_close(crop, frames.narrow(along, start, 64) / 255)


def test_one_crop_is_the_middle_of_three():
    one = eval_transform(TransformConfig(), 32, MEAN, STD)(view())
    three = eval_transform(TransformConfig(eval_crops=3), 32, MEAN, STD)(view())
    torch.testing.assert_close(one[0], three[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"crop": "resize"}, "unknown training crop 'resize'; did you mean 'resized'"),
        ({"eval_crops": 2}, "setting 'eval_crops' is 2, must be 1, 3 or 4"),
        ({"scale": (0.0, 1.0)}, "setting 'scale'"),
        ({"scale": (0.5, 1.5)}, "setting 'scale'"),
        ({"ratio": (2.0, 1.0)}, "setting 'ratio'"),
        ({"short_side": (320, 256)}, "setting 'short_side'"),
        ({"flip": 1.5}, "setting 'flip' is 1.5, must be a probability"),
        ({"erasing": -0.1}, "setting 'erasing'"),
        ({"randaugment_ops": -1}, "setting 'randaugment_ops'"),
        ({"randaugment_magnitude": 11}, "setting 'randaugment_magnitude' is 11, must be 0 to 10"),
        ({"randaugment_spread": -1}, "setting 'randaugment_spread' is -1, must be 0 or more"),
        ({"scaling": "openclip"}, "unknown scaling 'openclip'; did you mean 'openvclip'"),
        ({"eval_short_side": -1}, "setting 'eval_short_side' is -1, must be 0 or more"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.9)}, "setting 'color_jitter'"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(VactkError, match=message):
        TransformConfig(**setting)


def test_jitter_below_the_models_size_is_refused():
    with pytest.raises(
        VactkError, match=r"setting 'short_side' is .*, must be at least the model's size, 336"
    ):
        train_transform(TransformConfig(crop="jitter"), 336, MEAN, STD)


@pytest.mark.parametrize("scaling", ["clip", "openvclip", "m2clip"])
@pytest.mark.parametrize("size", [(40, 71), (71, 40), (32, 32)])
def test_the_centre_crop_of_training_is_that_of_evaluation(scaling, size):
    frames = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    config = TransformConfig(crop="centre", scaling=scaling, flip=0.0)
    image = (32, (0.5,) * 3, (0.5,) * 3)
    trained, evaluated = train_transform(config, *image)(frames), eval_transform(config, *image)(frames)
    torch.testing.assert_close(trained, evaluated[0], rtol=0, atol=0)
