from __future__ import annotations

import torch
import torch.nn.functional as F

from vactk.models.heads import ClassHead, MaskedWordHead
from vactk.models.losses import masked_word_loss
from vactk.models.text_tower import TextAdapterConfig, TextTower


def word_head(dim=32, embed_dim=24, num_words=7):
    return MaskedWordHead(dim, embed_dim, num_words, TextAdapterConfig(width=4, layers=1).block(dim))


def test_class_head_drops_features_in_training_alone():
    head = ClassHead(8, 3)
    x = torch.randn(4, 8)
    assert torch.equal(head.eval()(x), head(x))
    torch.testing.assert_close(head.eval()(x), F.linear(x, head.fc.weight, head.fc.bias))
    assert not torch.equal(head.train()(x), head.eval()(x))


def test_embeddings_of_another_width_are_projected(tiny_clip):
    head = word_head()
    logits = head(TextTower(tiny_clip), torch.randn(2, 5, 32), torch.randn(2, 3, 24))
    assert logits.shape == (2, 5, 7)
    assert isinstance(word_head(embed_dim=32).project, torch.nn.Identity)


def test_every_word_sees_all_frames_and_no_other_word(tiny_clip):
    head = word_head().eval()
    hidden, frames = torch.randn(1, 5, 32), torch.randn(1, 3, 24)
    with torch.no_grad():
        logits = head(TextTower(tiny_clip), hidden, frames)
        torch.testing.assert_close(head(TextTower(tiny_clip), hidden[:, 2:3], frames), logits[:, 2:3])
        torch.testing.assert_close(head(TextTower(tiny_clip), hidden, frames.flip(1)), logits)
        assert (
            head(TextTower(tiny_clip), hidden, frames + torch.randn(1, 3, 24)) - logits
        ).abs().max() > 1e-3


def test_masked_word_loss_is_the_mean_over_masked_tokens_and_zero_without_any():
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[-100, 2, -100], [4, -100, -100]])
    expected = (
        F.cross_entropy(logits[0, 1:2], labels[0, 1:2]) + F.cross_entropy(logits[1, :1], labels[1, :1])
    ) / 2
    torch.testing.assert_close(masked_word_loss(logits, labels), expected)
    none = logits.clone().requires_grad_(True)
    loss = masked_word_loss(none, torch.full((2, 3), -100))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not none.grad.any()
