"""Which letter is heard when: hidden Markov models of letters, fitted to one speaker's clips and texts at once.

Each letter has two states in a row, and silence one; between words silence may be left out. It begins with the letters
spread evenly over what is loud, goes on with a Gaussian for each state, and ends with a small network in their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

GAUSSIAN_ROUNDS = 12
NETWORK_STEPS = (500, 750, 1000)
# Frames that the network sees before and after its own, every second of them.
CONTEXT = 9
# Clips whose likelihoods and paths are computed together.
TOGETHER = 64
NEVER = -1e9


@dataclass(frozen=True)
class Chain:
    """The states of a text in their order.

    states: number of each state's distribution. skips: whether it may follow the last but one, past a silence.
    places: the letter's place in the text without its spaces, -1 for silence.
    """

    states: list[int]
    skips: list[bool]
    places: np.ndarray


def letters_of(text: str) -> list[list[str]]:
    """The letters of each word; the first one with the space before it, as the tokenizer has them."""
    return [[f" {word[0]}", *word[1:]] for word in text.split()]


def make_chain(text: str, numbers: dict[str, int]) -> Chain:
    """The chain of a text; `numbers` counts letters, and silence comes after the last of them."""
    silence = 2 * len(numbers)
    states, skips, places = [silence], [False], [-1]
    place = 0
    for word in letters_of(text):
        for index, letter in enumerate(word):
            states += [2 * numbers[letter], 2 * numbers[letter] + 1]
            skips += [index == 0 and place > 0, False]
            places += [place, place]
            place += 1
        states.append(silence)
        skips.append(False)
        places.append(-1)
    return Chain(states, skips, np.array(places))


def align(texts: Sequence[str], mels: Sequence[Tensor], *, seed: int = 0) -> list[tuple[np.ndarray, float] | None]:
    """For each clip of one speaker the place of the letter in every frame, and how well its text fits.

    Args:
        texts: what is said.
        mels: log10 mel energies `(80, frames)`, 100 frames per second.
        seed: of the network.

    Returns:
        places `(frames,)`, -1 for silence, and the mean log likelihood ratio of a frame (about 2.4 nats; below 0.6 the
        text is another); None for a clip that is too short for its text.
    """
    torch.manual_seed(seed)
    numbers = {letter: i for i, letter in enumerate(sorted({x for t in texts for word in letters_of(t) for x in word}))}
    chains = [make_chain(text, numbers) for text in texts]
    used = [i for i, chain in enumerate(chains) if mels[i].shape[1] > sum(place >= 0 for place in chain.places) + 1]
    chains, mels = [chains[i] for i in used], [mels[i] for i in used]
    count = 2 * len(numbers) + 1
    labels = [_spread(chain, mel) for chain, mel in zip(chains, mels, strict=True)]
    features = [_cepstra(mel) for mel in mels]
    for _ in range(GAUSSIAN_ROUNDS):
        scorer = _gaussians(torch.cat(features), torch.cat(labels), count)
        paths, _ = _paths(chains, features, scorer)
        labels = [torch.tensor(chain.states)[path] for chain, path in zip(chains, paths, strict=True)]
    windows = [_windows(mel) for mel in mels]
    for steps in NETWORK_STEPS:
        scorer = _network(torch.cat(windows), torch.cat(labels), count, steps)
        paths, scores = _paths(chains, windows, scorer)
        labels = [torch.tensor(chain.states)[path] for chain, path in zip(chains, paths, strict=True)]
    found: list[tuple[np.ndarray, float] | None] = [None] * len(texts)
    for i, chain, path, score in zip(used, chains, paths, scores, strict=True):
        found[i] = chain.places[path], score
    return found


def _spread(chain: Chain, mel: Tensor) -> Tensor:
    """A state for every frame, to begin with: letters spread evenly over the loud frames, `(frames,)`."""
    loudness = mel.amax(0)
    loud = (loudness >= loudness.max() - 4.0).nonzero().flatten()
    silence = chain.states[0]
    spoken = torch.tensor([state for state in chain.states if state != silence])
    states = torch.full((mel.shape[1],), silence)
    states[loud] = spoken[torch.arange(len(loud)) * len(spoken) // len(loud)]
    return states


def _cepstra(mel: Tensor) -> Tensor:
    """13 cepstral coefficients with their first and second differences, `(frames, 39)`, of mean 0."""
    cosines = torch.cos(math.pi / 80 * (torch.arange(80) + 0.5)[None] * torch.arange(13)[:, None]) / math.sqrt(40)
    cepstra = cosines @ torch.maximum(mel, mel.max() - 6.0)
    slopes = _slopes(cepstra)
    stacked = torch.cat([cepstra, slopes, _slopes(slopes)])
    return (stacked - stacked.mean(1, keepdim=True)).T


def _slopes(values: Tensor) -> Tensor:
    wide = pad(values, (2, 2), mode="replicate")
    return (2 * (wide[:, 4:] - wide[:, :-4]) + wide[:, 3:-1] - wide[:, 1:-3]) / 10


def _windows(mel: Tensor) -> Tensor:
    """Every second band of every second frame around each frame, `(frames, 400)`, float16."""
    bands = (mel - mel.mean(1, keepdim=True))[::2]
    wide = pad(bands, (CONTEXT, CONTEXT), mode="replicate").unfold(1, 2 * CONTEXT + 1, 1)[..., ::2]
    return wide.permute(1, 0, 2).flatten(1).half()


def _gaussians(features: Tensor, labels: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Log density of each state's Gaussian with a diagonal covariance; rare states lean on the common one."""
    counts = torch.bincount(labels, minlength=count).float()[:, None]
    width = features.shape[1]
    means = torch.zeros(count, width).index_add(0, labels, features) / counts.clamp(min=1)
    squares = torch.zeros(count, width).index_add(0, labels, features**2) / counts.clamp(min=1)
    common = features.var(0)
    own = counts / (counts + 30)
    variances = (own * (squares - means**2) + (1 - own) * common).clamp(min=0.05 * common)
    means = own * means
    return lambda x: -0.5 * (((x[:, None] - means) ** 2 / variances).sum(-1) + variances.log().sum(-1))


def _network(windows: Tensor, labels: Tensor, count: int, steps: int) -> Callable[[Tensor], Tensor]:
    """Log of the posterior over the (softened) prior of each state, by a network trained on the labels of now."""
    prior = (torch.bincount(labels, minlength=count) + 1.0).log()
    prior = (prior - prior.logsumexp(0)).clamp(min=-9)
    width = 192
    layers = [nn.Linear(windows.shape[1], width), nn.GELU(), nn.Dropout(0.2)]
    layers += [nn.Linear(width, width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, count)]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        drawn = torch.randint(len(labels), (512,))
        loss = cross_entropy(network(windows[drawn].float()), labels[drawn], label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval().requires_grad_(False)
    return lambda x: network(x.float()).log_softmax(-1) - 0.8 * prior


def _paths(
    chains: Sequence[Chain], features: Sequence[Tensor], scorer: Callable[[Tensor], Tensor]
) -> tuple[list[np.ndarray], list[float]]:
    """For each clip the place in its chain of every frame, on the likeliest path, and the path's mean score."""
    order = sorted(range(len(chains)), key=lambda i: len(features[i]))
    paths: list[np.ndarray] = [np.empty(0)] * len(chains)
    scores = [0.0] * len(chains)
    for start in range(0, len(order), TOGETHER):
        group = order[start : start + TOGETHER]
        found = _viterbi([chains[i] for i in group], [scorer(features[i]) for i in group])
        for i, (path, score) in zip(group, found, strict=True):
            paths[i], scores[i] = path, score
    return paths, scores


def _viterbi(chains: Sequence[Chain], scores: Sequence[Tensor]) -> list[tuple[np.ndarray, float]]:
    """Best path through each chain given `(frames, distributions)`; all chains of a group at once."""
    rows, width, frames = len(chains), max(len(chain.states) for chain in chains), max(map(len, scores))
    lengths = torch.tensor([len(score) for score in scores])
    states = torch.zeros(rows, width, dtype=torch.int64)
    skips, real = (torch.zeros(rows, width, dtype=torch.bool) for _ in range(2))
    emitted = torch.zeros(rows, frames, scores[0].shape[1])
    for row, (chain, score) in enumerate(zip(chains, scores, strict=True)):
        size = len(chain.states)
        states[row, :size], skips[row, :size], real[row, :size] = (
            torch.tensor(chain.states),
            torch.tensor(chain.skips),
            True,
        )
        emitted[row, : len(score)] = score
    never = torch.tensor(NEVER)
    best = torch.full((rows, width), NEVER)
    best[:, :2] = emitted[:, 0].gather(1, states)[:, :2]
    steps_back = torch.zeros(rows, frames, width, dtype=torch.int8)
    for t in range(1, frames):
        moves = torch.stack([best, pad(best, (1, 0), value=NEVER)[:, :-1], pad(best, (2, 0), value=NEVER)[:, :-2]])
        moves[2] = torch.where(skips, moves[2], never)
        reached, back = moves.max(0)
        steps_back[:, t] = back.to(torch.int8)
        reached = torch.where(real, reached + emitted[:, t].gather(1, states), never)
        best = torch.where((t < lengths)[:, None], reached, best)
    found = []
    for row, chain in enumerate(chains):
        last = len(chain.states) - 1
        # A text ends in its last letter or in the silence after it.
        place = last if best[row, last] >= best[row, last - 1] else last - 1
        score = best[row, place].item() / int(lengths[row])
        path = [place]
        for back in reversed(steps_back[row, 1 : int(lengths[row])].numpy()):
            place -= int(back[place])
            path.append(place)
        found.append((np.array(path[::-1]), score))
    return found
