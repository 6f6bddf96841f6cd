"""PSA-MF at the size of its release, with random weights: the yardstick for latency and memory, not for accuracy.

Three BERT-base encoders (the third is run and its output unused, as released), LSTMs over 500 padded steps, bare
unmasked cross-modal attention, serial projections to 2048. See the table of differences in the published and the
released model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

TEXT_LENGTH = 50
STEPS = 500  # the release pads voice and face to this many steps
AUDIO_FEATURES, VISION_FEATURES = 74, 35  # of the CMU-MOSEI files


class ReleasedSizePsaMf(nn.Module):
    """The released computation at inference, batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.personality = BertModel(BertConfig(), add_pooling_layer=False)
        self.unused = BertModel(BertConfig(), add_pooling_layer=False)
        self.sentiment = BertModel(BertConfig(num_hidden_layers=11), add_pooling_layer=False)
        self.last_block = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
        self.audio_lstm = nn.LSTM(AUDIO_FEATURES, 64, batch_first=True)
        self.vision_lstm = nn.LSTM(VISION_FEATURES, 64, batch_first=True)
        self.audio_summary, self.vision_summary = nn.Linear(64, 64), nn.Linear(64, 64)
        self.audio_token, self.vision_token = nn.Linear(64, 768), nn.Linear(64, 768)
        self.reduce = nn.Linear(768, 64)
        self.cross_audio = nn.MultiheadAttention(64, 2, batch_first=True)
        self.cross_vision = nn.MultiheadAttention(64, 2, batch_first=True)
        self.audio_serial, self.vision_serial = nn.Linear(64, 2048), nn.Linear(64, 2048)
        self.serial = nn.Sequential(nn.LayerNorm(64 + 2 * 2048), nn.Linear(64 + 2 * 2048, 128))
        self.parallel = nn.Conv1d(3, 1, 3)
        self.head = nn.Sequential(nn.Linear(190, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))

    def forward(self, ids: Tensor, audio: Tensor, vision: Tensor) -> Tensor:
        """ids (B, 50), audio (B, 500, 74), vision (B, 500, 35) -> score (B, 1)."""
        p = self.personality(ids).last_hidden_state[:, 0]  # (B, 768)
        self.unused(ids)
        hidden_audio, (last_audio, _) = self.audio_lstm(audio)  # (B, 500, 64)
        hidden_vision, (last_vision, _) = self.vision_lstm(vision)
        a = torch.relu(self.audio_token(self.audio_summary(last_audio[0])) + p)  # (B, 768)
        v = torch.relu(self.vision_token(self.vision_summary(last_vision[0])) + p)
        tokens = torch.cat([self.sentiment(ids).last_hidden_state, torch.stack([v, a], dim=1)], dim=1)  # (B, 52, 768)
        t = self.reduce(self.last_block(tokens)[:, :1])  # (B, 1, 64)
        t_a = self.cross_audio(t, hidden_audio, hidden_audio, need_weights=False)[0][:, 0]  # (B, 64)
        t_v = self.cross_vision(t, hidden_vision, hidden_vision, need_weights=False)[0][:, 0]
        t = t[:, 0]
        serial = self.serial(torch.cat([t, self.vision_serial(t_v), self.audio_serial(t_a)], dim=1))  # (B, 128)
        parallel = self.parallel(torch.stack([t_v, t_a, t], dim=1))[:, 0]  # (B, 62)
        return self.head(torch.cat([serial, parallel], dim=1))


def example_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """One utterance at the padded sizes."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (1, TEXT_LENGTH), generator=g)
    return (
        ids,
        torch.randn(1, STEPS, AUDIO_FEATURES, generator=g),
        torch.randn(1, STEPS, VISION_FEATURES, generator=g),
    )
