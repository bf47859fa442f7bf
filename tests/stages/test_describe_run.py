"""What a run cost, added up from Snakemake's own measurements."""

import csv

from stages import describe_run

NAMES = "s h:m:s max_rss max_vms max_uss max_pss io_in io_out mean_load cpu_time"
HEAD = "\t".join(NAMES.split()) + "\n"


def line(seconds, memory, processor):
    return f"{seconds}\t0:00:01\t{memory}\t1\t1\t1\t0\t0\t50\t{processor}\n"


def described(tmp_path):
    results = tmp_path / "results"
    jobs = results / "benchmarks/extract_mesh/gnesf"
    jobs.mkdir(parents=True)
    # One job ran twice: both were paid for.
    (jobs / "a.tsv").write_text(HEAD + line(60, 100, 30) + line(20, 90, 10))
    (jobs / "b.tsv").write_text(HEAD + line(40, 300, 40))
    short = results / "benchmarks/make_lists.tsv"
    short.write_text(HEAD + line(0.2, "NA", "NA"))
    (results / "frames").mkdir()
    (results / "frames/a.h5").write_bytes(bytes(3 * 2**20))
    outputs = [tmp_path / name for name in ("costs.csv", "run.md", "run.html")]
    config = {"fields": {"gnesf": {"training": {"seed": 7}}}, "dataset": "<script>"}
    describe_run.main(results, config, *outputs)
    return outputs


def test_what_jobs_took_is_added_by_rule(tmp_path):
    costs, _, _ = described(tmp_path)
    with costs.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["rule"], first["jobs"]) == ("extract_mesh", "3")
    assert float(first["wall_s"]) == 120 and float(first["processor_s"]) == 80
    assert float(first["median_s"]) == 40 and float(first["memory_mib"]) == 300
    assert second["rule"] == "make_lists" and float(second["memory_mib"]) == 0


def test_the_page_tells_disk_versions_and_seeds_and_runs_nothing(tmp_path):
    _, markdown, html = described(tmp_path)
    text = markdown.read_text()
    assert "| frames | 1 | 3.0 |" in text
    assert "| fields: gnesf: training: seed | 7 |" in text
    assert "| torch | " in text
    assert "<script>" not in html.read_text()
