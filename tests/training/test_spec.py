import pytest

from icsbound._check import InputError
from icsbound.training import spec


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("bn", "bn", {}),
        ("unitized:alpha_init=0.3,scope=position", "unitized", {"alpha_init": 0.3, "scope": "position"}),
        # a tuple keeps its comma, and words of three spellings stand for None, True and False
        (
            "u:alpha_range=(0.0, 0.5),norm_eps=none,frozen=true",
            "u",
            {
                "alpha_range": (0.0, 0.5),
                "norm_eps": None,
                "frozen": True,
            },
        ),
        ("resnet8:width=4", "resnet8", {"width": 4}),
    ],
)
def test_splits_a_name_and_its_settings(text: str, name: str, settings: dict[str, object]) -> None:
    assert spec.split("arm", text) == (name, settings)


@pytest.mark.parametrize("text", ["bn:", "bn:eps", "bn:eps=", "bn:=1", "bn:eps=1,"])
def test_refuses_half_a_setting(text: str) -> None:
    with pytest.raises(InputError, match=f"^arm must read name or name:key=value,key=value, got '{text}'$"):
        spec.split("arm", text)


def test_refuses_a_key_set_twice() -> None:
    with pytest.raises(InputError, match=r"^arm must set each key once, got 'eps' twice in 'bn:eps=1,eps=2'$"):
        spec.split("arm", "bn:eps=1,eps=2")
