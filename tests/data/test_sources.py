"""Sources by name: titles with their arguments, settings that models publish for them, configs that explain themselves."""

import inspect

import pytest

import bench
from bench.data import sources
from bench.data.sources import Source
from bench.errors import UsageError


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("amazon:Kindle_Store", "Amazon Kindle Store"),
        ("amazon:Musical_Instruments", "Amazon Musical Instruments"),
        ("log:/somewhere/shop", "own logs: shop"),
        ("log:other_shop/", "own logs: other shop"),
        ("kuaisar", "KuaiSAR"),
    ],
)
def test_a_title_says_which_data_these_are(name, title, tmp_path):
    assert sources.open_source(name, root=tmp_path).title == title


def test_titles_of_two_folders_of_one_source_differ(tmp_path):
    for name in sources.entries():
        if name.endswith(":"):
            one, other = (sources.open_source(name + folder, root=tmp_path) for folder in ("x/one", "x/other"))
            assert one.title != other.title and "one" in one.title


def test_the_manifest_of_a_prepared_log_carries_the_title(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [f"u{user},i{user * 3 + n},{1_600_000_000_000 + n},rec,," for user in range(3) for n in range(3)]
    (folder / "events.csv").write_text("\n".join(["user,item,time,task,query,session", *rows]) + "\n")
    log = sources.load(f"log:{folder}", root=tmp_path / "root")
    assert log.manifest["title"] == "own logs: shop"
    assert sources.load(f"log:{folder}", root=tmp_path / "root").manifest["title"] == "own logs: shop"
    assert sources.published_as(f"log:{folder}", log) == "log"


def test_published_settings_reach_a_source_with_an_argument(make_log):
    log = make_log()
    assert sources.published_as("amazon:Kindle_Store", log) == "amazon"
    assert sources.published_as("kuaisar", log) == "kuaisar"
    log.manifest["same_data_as"] = "kuaisar"
    assert sources.published_as("unisar-release:/somewhere", log) == "kuaisar"


@pytest.mark.parametrize("name", sources.entries())
def test_every_setting_of_a_source_says_what_it_does(name, tmp_path):
    opened = sources.open_source(f"{name}x" if name.endswith(":") else name, root=tmp_path)
    assert isinstance(opened, Source)
    silent = [field for field, facts in type(opened).Config.model_fields.items() if not facts.description]
    assert silent == []
    with pytest.raises(UsageError, match="unknown setting"):
        sources.open_source(f"{name}x" if name.endswith(":") else name, {"nonesuch": 1}, tmp_path)


def test_the_folder_of_the_data_has_one_name_in_the_api_and_on_the_command_line():
    from bench import api, datasets
    from bench.cli.run import command
    from bench.experiments.run import RunRequest

    assert bench.datasets.load is datasets.load and bench.run is api.run
    # `bench.run` hands further options to the request.
    names = [set(inspect.signature(call).parameters) for call in (datasets.load, api.report, api.audit, RunRequest)]
    names.append({option.name for option in command.params})
    assert all("data" in each and not {"root", "data_root", "folder"} & each for each in names)
