"""Statistics of a prior: measured once for its weights, and again where these change."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gprior
import gprior.distances.choice
from gprior.checkpoints import load_prior, save_prior
from gprior.distances import FeatureDistance, choose, median_distance
from gprior.distances.choice import discriminator_unit, unit_of
from gprior.operators import Masking
from gprior.priors import BigGAN, view_of
from gprior.priors.styles import spread
from gprior.search import AfterBlock
from gprior.solvers.ilo import typical
from gprior.solvers.placement import Transformed, usual_box
from gprior.solvers.pnorm import moments


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    monkeypatch.setattr(gprior.distances.choice, "PAIRS", 5)


@pytest.fixture
def prior(tiny_prior):
    """Return a prior that no other test has, with a stored number and a measured one."""
    prior = copy.deepcopy(tiny_prior(dtype=torch.float32))
    prior.statistics = {"stored": 1.5}
    assert prior.statistic("measured", lambda: 2.5) == 2.5
    return prior


def known(prior):
    return sorted(prior.statistics)


def scale(prior):
    with torch.no_grad():
        prior.const.mul_(2)


def train(prior):
    prior.requires_grad_(True)
    optimizer = torch.optim.Adam(prior.parameters())
    prior(prior.draw([(0, "z")])).sum().backward()
    optimizer.step()


def assign(prior):
    prior.load_state_dict({k: v.clone() for k, v in prior.state_dict().items()}, assign=True)


CHANGES = {
    "in place": scale,
    "a step of an optimizer": train,
    "a loaded state": lambda prior: prior.load_state_dict(prior.state_dict()),
    "an assigned state": assign,
    "replaced data": lambda prior: setattr(prior.const, "data", prior.const.data * 2),
    "a buffer": lambda prior: prior.w_avg.add_(1),
    "another discriminator": lambda prior: setattr(
        prior, "discriminator", copy.deepcopy(prior.discriminator)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_weights_empties_the_cache(change, prior):
    CHANGES[change](prior)
    assert known(prior) == []
    assert prior.statistic("measured", lambda: 3.5) == 3.5


def test_nothing_is_measured_twice(prior):
    refuse = lambda: pytest.fail("measured again")  # noqa: E731
    prior.freeze()
    prior.sample(1)
    prior.to("cpu").float()
    with torch.inference_mode():
        assert prior.statistic("measured", refuse) == 2.5
    assert prior.statistic("stored", refuse) == 1.5


@pytest.mark.parametrize("convert", ["dtype", "copy", "shallow copy", "pickle"])
def test_a_copy_keeps_what_is_stored_until_its_weights_change(convert, prior):
    other = {
        "dtype": lambda: prior.double(),
        "copy": lambda: copy.deepcopy(prior),
        "shallow copy": lambda: copy.copy(prior),
        "pickle": lambda: pickle.loads(pickle.dumps(prior)),
    }[convert]()
    assert known(other) == ["stored"]
    scale(other)
    assert known(other) == []
    assert known(prior) == (["measured", "stored"] if convert in ("copy", "pickle") else [])


def test_a_replica_takes_over_what_is_stored(prior):
    """`torch.nn.DataParallel` calls copies whose weights are attributes and not parameters."""
    replica = prior._replicate_for_data_parallel()
    assert known(replica) == ["stored"] and known(prior) == ["measured", "stored"]
    scale(prior)
    assert known(prior._replicate_for_data_parallel()) == []


def test_a_changed_prior_cannot_pass_its_statistics_on(prior):
    scale(prior)
    assert known(copy.deepcopy(prior)) == [] and known(prior.double()) == []


def test_what_is_measured_in_inference_mode_serves_a_search(prior):
    with torch.inference_mode():
        basis = moments(prior)[1]
    (basis @ torch.ones(basis.shape[1], 1, requires_grad=True)).sum().backward()


def test_the_solvers_statistics_are_cached(prior):
    cuts = [AfterBlock(1), AfterBlock(2)]
    first = spread(prior), moments(prior), usual_box(prior), [typical(prior, c) for c in cuts]
    again = spread(prior), moments(prior), usual_box(prior), [typical(prior, c) for c in cuts]
    assert first[0] == again[0] and first[1] is again[1] and first[2] is again[2]
    assert first[3] == again[3] and first[3][0] != first[3][1]
    scale(prior)
    assert usual_box(prior) is not first[2]
    with torch.no_grad():
        prior.mapping_network.layers[-1].weight.mul_(2)
        prior.w_avg.mul_(2)
    assert spread(prior) > 1.2 * first[0]


def test_statistics_of_styles_are_those_of_the_base_and_of_images_those_of_the_wrapper(prior):
    adapted = prior.adapt((3, 12, 12))
    wrapped = Transformed(adapted)
    assert wrapped.core is adapted.core is prior
    assert spread(wrapped) == spread(prior) and moments(wrapped) is moments(prior)
    assert discriminator_unit(wrapped) == discriminator_unit(prior)
    distance = FeatureDistance(lambda x: [x.diff(dim=3), x.diff(dim=2)])
    assert unit_of(distance, adapted) == median_distance(distance, adapted.sample(10))
    assert unit_of(distance, adapted) != unit_of(distance, prior)
    before = unit_of(distance, adapted)
    scale(prior)
    assert unit_of(distance, adapted) != before


def test_an_adapted_prior_keeps_the_stored_unit_in_another_dtype():
    prior = gprior.load_prior("phantom-64").adapt((3, 32, 32))
    unit = prior.core.statistics["perceptual_unit"]
    assert choose(None, prior.double())[1] == unit == 1.9706674814224243
    assert set(prior.state_dict()) == {f"base.{name}" for name in prior.core.state_dict()}


def test_the_truncation_of_draws_counts_as_a_weight():
    torch.manual_seed(0)
    prior = BigGAN([16, 16, 8], [True, True], z_dim=4, embed_dim=4, c_dim=3).freeze()
    adapted = prior.adapt((1, 16, 16))
    distance = FeatureDistance(lambda x: [x.diff(dim=3), x.diff(dim=2)])
    units = unit_of(distance, prior), unit_of(distance, adapted)
    prior.truncation = 0.3
    assert unit_of(distance, prior) != units[0] and unit_of(distance, adapted) != units[1]


def test_units_of_features_that_are_gone_are_gone(prior):
    for _ in range(3):
        unit_of(FeatureDistance(lambda x: [x.diff(dim=3), x.diff(dim=2)]), prior)
    assert len(prior.statistic("perceptual_units", dict)) == 0


def test_a_trainable_copy_measures_its_unit_after_each_step(prior):
    before = discriminator_unit(prior)
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(1))
    model = gprior.Reconstructor(prior, steps=1, init="random", trainable=True)
    optimizer = torch.optim.SGD(model.prior.parameters(), 0.01)
    model(y, A).square().mean().backward()
    optimizer.step()
    now = discriminator_unit(model.prior)
    assert now != before and discriminator_unit(prior) == before
    critic = model.prior.discriminator
    maps = lambda x: critic.features(2 * x - 1)  # noqa: E731
    assert now == median_distance(maps, model.prior.sample(10))


def test_a_view_of_a_trainable_copy_shares_its_statistics(prior):
    """A search of a trainable copy uses a view of it: what is measured there is kept."""
    view = view_of(prior.unfreeze())
    before = discriminator_unit(view)
    assert prior.statistics["perceptual_unit"] == before == discriminator_unit(view_of(prior))
    scale(prior)
    assert known(prior) == [] and discriminator_unit(view_of(prior)) != before


# --- In files


def test_a_file_stores_the_numbers_of_its_prior(prior, tmp_path):
    s = spread(prior)
    moments(prior)
    save_prior(prior, tmp_path / "p.safetensors")
    loaded = load_prior(tmp_path / "p.safetensors")
    assert loaded.statistics == {"stored": 1.5, "measured": 2.5, "spread_of_w": s}
    assert "statistics" not in loaded.record
    assert spread(loaded.double()) == s
    scale(loaded)
    save_prior(loaded, tmp_path / "changed.safetensors")
    assert load_prior(tmp_path / "changed.safetensors").statistics == {}


def rewritten(path, change):
    """Write a file again with other metadata."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    meta = json.loads(metadata["gprior"])
    change(meta)
    save_file(load_file(path), path, {**metadata, "gprior": json.dumps(meta)})
    return load_prior(path)


def test_files_of_the_first_version_keep_their_unit(prior, tmp_path):
    save_prior(prior, tmp_path / "p.safetensors")

    def age(meta):
        del meta["statistics"]
        meta["record"]["perceptual_unit"] = 0.7

    old = rewritten(tmp_path / "p.safetensors", age)
    assert old.statistics == {"perceptual_unit": 0.7} and choose(None, old)[1] == 0.7
    assert "perceptual_unit" not in old.record


@pytest.mark.parametrize("value", ["abc", None, float("nan"), [1.0], 10**400])
def test_values_that_are_no_numbers_are_measured_again(value, prior, tmp_path):
    save_prior(prior, tmp_path / "p.safetensors")
    odd = rewritten(
        tmp_path / "p.safetensors", lambda meta: meta.update(statistics={"perceptual_unit": value})
    )
    assert odd.statistics == {} and 0 < discriminator_unit(odd) < 1e3


def test_statistics_that_are_no_dictionary_are_refused(prior, tmp_path):
    save_prior(prior, tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match=r"statistics must be a dictionary, got \[1\]"):
        rewritten(tmp_path / "p.safetensors", lambda meta: meta.update(statistics=[1]))


def test_the_unit_of_published_lpips_is_stored(monkeypatch, prior, tmp_path):
    class Published(gprior.Perceptual):
        def __init__(self):
            FeatureDistance.__init__(self, lambda x: [x.diff(dim=3), x.diff(dim=2)])
            self.name, self.published = "lpips-vgg", True

    unit = unit_of(Published(), prior)
    save_prior(prior, tmp_path / "p.safetensors")
    monkeypatch.setattr(gprior.distances.choice, "median_distance", lambda *_: pytest.fail())
    assert unit_of(Published(), load_prior(tmp_path / "p.safetensors")) == unit
