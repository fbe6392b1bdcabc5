"""What is read from the sources is what the objects say; names, options and records are checked without importing them."""

import dataclasses
import functools
import inspect
import itertools
import json
import math
import re
import string
import subprocess
import sys

import pytest

import marlet
from marlet import catalogue, sources, typed
from marlet.bridges.resolve import Factory
from marlet.envs.grid import Grid
from marlet.envs.two_step import TwoStep
from marlet.errors import MarletError
from marlet.parts.mixers import Monotonic, Sum
from marlet.suited import SUITED

ALGORITHMS, ENVS = catalogue.algorithm_names(), catalogue.env_names()


def test_everything_is_found():
    assert {"qmix", "vdn", "iql", "shared_q", "tabular_iql", "hysteretic", "boltzmann"} <= set(ALGORITHMS)
    assert {"spread", "grid", "matrix", "two_step", "drones"} <= set(ENVS)
    assert {"apart", "sum", "monotonic"} <= set(catalogue.part_names())


def test_what_is_not_final_or_public_is_not():
    assert not {"tabular", "changed", "algorithm"} & set(ALGORITHMS)
    assert not {"env", "base"} & set(ENVS)
    assert "mixer" not in catalogue.part_names()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_defaults_read_from_the_source_are_the_objects_own(name):
    made, entry = catalogue.make_algorithm(name), catalogue.algorithm_entry(name)
    fields = {field.name for field in dataclasses.fields(made)} - {"name"}
    assert set(entry.options) == fields
    for option in entry.options.values():
        value = getattr(made, option.name)
        told = typed.fitted(name, option, option.name, option.shown_default)
        assert told == (sources.snake(type(value).__name__) if option.parts else value), option.name


@pytest.mark.parametrize("name", ENVS)
def test_the_same_of_environments(name):
    made, entry = catalogue.make_env(name), catalogue.env_entry(name)
    for option in entry.options.values():
        assert typed.fitted(name, option, option.name, option.shown_default) == getattr(made, option.name)
        assert option.help
        field = next(field for field in dataclasses.fields(made) if field.name == option.name)
        assert option.choices == field.metadata["choices"]


def counted(formula, env):
    """What a formula of a description comes to: `2 + 4 n size²`, of n and of what the environment has by that name."""
    value = lambda word: int(word) if word.isdigit() else env.spec.num_agents if word == "n" else getattr(env, word)  # noqa: E731
    terms = re.sub(r"(\w+)²", r"\1 \1", formula).split(" + ")
    return sum(math.prod(map(value, term.split())) for term in terms)


@pytest.mark.parametrize("name", ENVS)
def test_an_environment_describes_itself_by_the_numbers_of_its_spec(name):
    """Who plays, what they observe, do and are paid, and how it ends; formulas hold with other options, too."""
    kind, options = catalogue.env_entry(name).load(), catalogue.env_entry(name).options
    made = kind()
    others = [kind(**{key: getattr(made, key) + 1}) for key, option in options.items() if option.type == "int"]
    spec, doc = made.spec, " ".join(inspect.cleandoc(kind.__doc__).split())
    told = {part.partition("**")[0]: part.partition("**")[2] for part in doc.split(" - **")}
    for what, size in {
        "Agents": lambda spec: spec.num_agents,
        "Observation": lambda spec: spec.obs_shape[0],
        "State": lambda spec: spec.state_size,
    }.items():
        *formulas, number = re.findall(r"[nds] = ([^:;,]*)", told[what])[0].split(" = ")
        assert int(number) == size(spec)
        for formula, env in itertools.product(formulas or [number], [made, *others]):
            assert counted(formula, env) == size(env.spec), (what, env)
    for numbers, what in ((spec.teams, "team"), (spec.kinds, "kind")):
        count = len(set(numbers))
        assert f"{('one', 'two', 'three')[count - 1]} {what}{'s' * (count > 1)}" in told["Agents"]
    acts = f"`n a`, a = {spec.num_actions}, in [-1, 1]" if spec.continuous else f"`n`, one of {spec.num_actions}"
    assert re.match(rf" {re.escape(acts)}[: ]", told["Action"])
    if "continuous" in options:
        assert f"(with `continuous` `n a`, a = {kind(continuous=True).spec.num_actions}): " in told["Action"]
    assert told["Reward"]
    assert ("dies" in told["End"].replace("nobody dies", "")) == spec.mortal
    assert f" {spec.horizon} " in told["End"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_default_can_be_given_as_text(name):
    """Setting every option to its default, as the command line would, changes nothing."""
    entry = catalogue.algorithm_entry(name)
    texts = {key: option.shown_default for key, option in catalogue.settings(entry, {}).items()}
    assert catalogue.make_algorithm(name, texts) == catalogue.make_algorithm(name)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_constructors_name_their_algorithm(name):
    assert catalogue.make_algorithm(name).name == name


def test_records_give_the_same_objects_again():
    objects = [
        *map(catalogue.make_algorithm, ALGORITHMS),
        *map(catalogue.make_env, ENVS),
        catalogue.make_algorithm("qmix", {"mixer.size": 8, "hidden": (16,)}),
        Grid(placement=((0, 0), (1, 1))),
        catalogue.make_env("matrix", {"payoff": "[[3, 0], [5, 1]]"}),
    ]
    for made in objects:
        assert catalogue.rebuild(json.loads(json.dumps(catalogue.record_of(made)))) == made


def test_foreign_environments_are_remembered_by_name():
    pytest.importorskip("mpe2")
    made = catalogue.make_env("pettingzoo:mpe2.simple_spread_v3", {"N": "2"})
    record = json.loads(json.dumps(catalogue.record_of(made)))
    assert record == {"type": "pettingzoo:mpe2.simple_spread_v3", "options": {"N": 2}}
    assert catalogue.rebuild(record) == made == Factory("mpe2.simple_spread_v3", "parallel_env", {"N": 2})


@pytest.mark.parametrize(
    "kind", ["os:system", "pettingzoo:evil_module", "evil_module", "pettingzoo:evil.mpe2", None, ["Grid"]]
)
def test_a_record_never_imports_what_it_names(kind, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MarletError):
        catalogue.rebuild({"type": kind})
    with pytest.raises(SystemExit):  # negative control: it is there to be imported
        __import__("evil_module")


def test_a_record_with_a_strange_option_is_refused():
    with pytest.raises(MarletError, match=r"no option 'sise'\. Did you mean 'size'"):
        catalogue.rebuild({"type": "Grid", "sise": 3})
    with pytest.raises(MarletError, match="must be a whole number"):
        catalogue.rebuild({"type": "Grid", "size": "three"})


def test_names_in_a_list_may_stand_apart():
    assert catalogue.named_in(" iql, ippo,,") == ["iql", "ippo"]


def test_parts_are_chosen_by_name_and_set_by_dotted_names():
    assert catalogue.make_algorithm("qmix", {"mixer.size": "8"}).mixer == Monotonic(size=8)
    assert catalogue.make_algorithm("iql", {"mixer": "monotonic", "mixer.hyper": 0}).mixer == Monotonic(hyper=0)
    assert catalogue.make_algorithm("qmix", {"mixer": "sum"}).mixer == Sum()
    assert catalogue.make_algorithm("qmix", {"mixer": Sum()}).mixer == Sum()
    with pytest.raises(MarletError, match=r"qmix has no option 'mixer\.size'"):
        catalogue.make_algorithm("qmix", {"mixer": "sum", "mixer.size": 8})


@pytest.mark.parametrize(
    ("env_name", "name"), [(env_name, name) for env_name, suits in SUITED.items() for name in suits]
)
def test_defaults_that_suit_an_environment_are_others_than_elsewhere_and_fit_it(env_name, name):
    env, here = catalogue.make_env(env_name), SUITED[env_name][name]
    assert not any(catalogue.settings(catalogue.algorithm_entry(name), {})[key].parts for key in here)
    made, plain = catalogue.make_algorithm(name, env=env), catalogue.make_algorithm(name)
    assert made == catalogue.make_algorithm(name, here)
    assert catalogue.accepts(made, env.spec)
    assert all(made != catalogue.make_algorithm(name, here | {key: at(plain, key)}) for key in here)


def at(made, key):
    """The value of a dotted option."""
    return functools.reduce(getattr, key.split("."), made)


def test_what_a_user_sets_goes_before_what_suits_the_environment(monkeypatch):
    suits = {"mixer.size": 8, "mixer.hyper": 16, "envs": 4}
    monkeypatch.setattr(catalogue, "SUITED", {"spread": {"qmix": suits}})
    qmix = lambda options, env: catalogue.make_algorithm("qmix", options, env=env)  # noqa: E731
    made = qmix({"mixer.size": "4"}, marlet.Spread(agents=2))
    assert (made.mixer, made.envs) == (Monotonic(size=4, hyper=16), 4)
    assert qmix({"mixer": "monotonic"}, marlet.Spread()).mixer == Monotonic(size=8, hyper=16)
    assert qmix({"mixer": "sum"}, marlet.Spread()) == qmix({"mixer": "sum", "envs": 4}, None)
    assert qmix({"mixer": Monotonic(hyper=5)}, marlet.Spread()).mixer == Monotonic(hyper=5)
    assert qmix({}, marlet.TwoStep()) == qmix({}, None) == marlet.qmix()


def test_an_environment_of_ones_own_is_not_taken_for_marlets_of_that_name():
    assert catalogue.name_of(marlet.TwoStep()) == "two_step"
    assert catalogue.name_of(type("Spread", (marlet.Spread,), {})()) == ""
    assert catalogue.name_of(None) == catalogue.name_of(catalogue.make_env("pettingzoo:mpe2.simple_spread_v3")) == ""


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epsilon_steps", "1e5", 100_000),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", "1", 1.0),
        ("hidden", "32", (32,)),
        ("hidden", "32,16", (32, 16)),
        ("hidden", "(32, 16)", (32, 16)),
        ("hidden", "()", ()),
        ("hidden", [32, 16], (32, 16)),
        ("double", "false", False),
        ("double", "True", True),
        ("sharing", "own", "own"),
        ("max_gradient", "1e3", 1000.0),
    ],
)
def test_texts_become_values(name, text, value):
    made = getattr(catalogue.make_algorithm("qmix", {name: text}), name)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"envs": "1.5"}, "envs is '1.5', but must be a whole number"),
        ({"envs": "many"}, "must be a whole number"),
        ({"envs": "inf"}, "must be a whole number"),
        ({"max_gradient": "inf"}, "must be finite"),
        ({"envs": 0}, "envs is 0, but must be at least 1"),
        ({"envs": True}, "must be a whole number"),
        ({"learning_rate": "nan"}, "must be a number"),
        ({"learning_rate": "fast"}, "must be a number"),
        ({"learning_rate": -1e-9}, "at least 0"),
        ({"discount": "1.001"}, "from 0 to 1"),
        ({"double": "1"}, "must be true or false"),
        ({"double": "maybe"}, "must be true or false"),
        ({"sharing": "owm"}, "Did you mean 'own'"),
        ({"hidden": "32,none"}, "numbers parted by commas"),
        ({"hidden": "32,0"}, "at least 1"),
        ({"mixer": "summ"}, "Did you mean 'sum'"),
        ({"lerning_rate": 1}, "Did you mean 'learning_rate'"),
        ({"mixer.siz": 1}, r"Did you mean 'mixer\.size'"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(MarletError, match=message):
        catalogue.make_algorithm("qmix", options)


def test_every_bound_holds():
    """One step beyond each numeric bound is refused; the bound itself is not."""
    for name in ALGORITHMS:
        entry = catalogue.algorithm_entry(name)
        for key, option in catalogue.settings(entry, {}).items():
            step = 1 if "int" in option.type else 1e-6
            wrap = (lambda value: (value,)) if option.type.startswith("tuple") else lambda value: value
            for bound, beyond in ((option.low, -step), (option.high, step)):
                if bound is not None:
                    catalogue.checked(entry, {key: wrap(bound)})
                    with pytest.raises(MarletError, match="must be"):
                        catalogue.checked(entry, {key: wrap(bound + beyond)})


def mutations(name):
    """Every name with one character left out, added, changed, or two neighbours exchanged."""
    letters = string.ascii_lowercase + "_"
    cuts = [(name[:k], name[k:]) for k in range(len(name) + 1)]
    found = {a + b[1:] for a, b in cuts if b} | {a + c + b for a, b in cuts for c in letters}
    found |= {a + c + b[1:] for a, b in cuts if b for c in letters}
    return found | {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}


def suggestions(names, refuse):
    """Of all mutations that are not real names: how many suggest the right one, leaving out those near two names."""
    near = {name: mutations(name) for name in names}
    right = count = 0
    for name in names:
        for wrong in sorted(near[name] - set(names))[:: max(1, len(name) // 3)]:
            if any(wrong in near[other] for other in names if other != name):
                continue
            with pytest.raises(MarletError) as caught:
                refuse(wrong)
            count += 1
            right += f"Did you mean '{name}'?" in str(caught.value)
    return right / count


def test_misspelt_names_are_refused_with_the_right_one():
    assert suggestions(ALGORITHMS, catalogue.algorithm_entry) >= 0.95
    assert suggestions(ENVS, catalogue.env_entry) >= 0.95


def test_misspelt_options_are_refused_with_the_right_one():
    entry = catalogue.algorithm_entry("qmix")
    assert (
        suggestions(list(catalogue.settings(entry, {})), lambda wrong: catalogue.checked(entry, {wrong: "1"})) >= 0.95
    )


def test_the_algorithms_that_fit_are_told():
    assert "minimax_q" not in catalogue.algorithms_for(TwoStep().spec)
    assert {"qmix", "tabular_iql"} <= set(catalogue.algorithms_for(TwoStep().spec))


def test_the_package_offers_everything_and_imports_nothing():
    assert {"train", "load", "qmix", "Spread", "Monotonic", "Env", "Spec", "MarletError"} <= set(dir(marlet))
    for name in dir(marlet):
        assert getattr(marlet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'qmxi'"):
        marlet.qmxi
    program = "import sys, marlet, marlet.catalogue as c; c.algorithm_names(); dir(marlet); print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
