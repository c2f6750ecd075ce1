"""What the page says of a run: nothing that did not pass is counted as passed, and nothing that was selected is left out."""

from __future__ import annotations

from tests.conformance import report


def spec(text, state, message="", kind="It", containers=("[sig-network] Services",)):
    failure = {"Failure": {"Message": message}} if message else {}
    return {
        "ContainerHierarchyTexts": list(containers),
        "LeafNodeText": text,
        "LeafNodeType": kind,
        "State": state,
        "RunTime": 2.5e9,
        **failure,
    }


def found(*specs):
    return report.specs([{"SpecReports": list(specs)}])


def test_filtered_specs_are_left_out_and_those_that_skip_themselves_are_not():
    listed = found(spec("b [Conformance]", "passed"), spec("a", "skipped"), spec("c", "skipped", "needs 3 nodes"), spec("d", "pending"))
    assert [(s.text, s.state) for s in listed] == [
        ("[sig-network] Services b [Conformance]", "passed"),
        ("[sig-network] Services c", "skipped"),
    ]


def test_every_way_to_fail_is_a_failure():
    states = ("failed", "panicked", "timedout", "interrupted", "aborted")
    assert report.count(found(*(spec(state, state, "why") for state in states))) == {"passed": 0, "failed": 5, "skipped": 0}


def test_a_suite_that_could_not_begin_is_a_failure():
    listed = found(spec("", "failed", "no nodes", kind="SynchronizedBeforeSuite", containers=()), spec("a", "skipped"))
    assert [(s.text, s.state, s.message) for s in listed] == [("(SynchronizedBeforeSuite)", "failed", "no nodes")]


def test_an_empty_report_has_no_specs():
    assert report.specs([{"SpecReports": None}]) == []


def test_the_page_names_each_spec_and_the_counts():
    text = "\n".join(report.page(found(spec("a [Conformance]", "passed"), spec("b | c", "failed", "why")), {"kernel": "6.1"}))
    assert "| kernel | 6.1 |" in text
    assert "**1 of 2 passed**, 1 failed, 0 skipped" in text
    assert "| Services a | passed | 2.5 |" in text
    assert "| Services b &#124; c | **failed** | 2.5 |" in text


def test_the_page_counts_each_kind_of_spec_in_its_own_section():
    netpol = spec("should deny [Feature:NetworkPolicy]", "passed", containers=("[sig-network] Netpol", "NetworkPolicy"))
    text = "\n".join(report.page(found(spec("a [Conformance]", "passed"), netpol, spec("b", "failed", "why")), {}))
    sections = {part.splitlines()[0]: part for part in text.split("## ")[1:]}
    assert list(sections) == ["Conformance", "NetworkPolicy", "Others"]
    assert "**1 of 1 passed**" in sections["NetworkPolicy"]
    assert "| Netpol NetworkPolicy should deny | passed | 2.5 |" in sections["NetworkPolicy"]
    assert "**0 of 1 passed**, 1 failed" in sections["Others"]
    assert "**2 of 3 passed**" in text


def test_the_summary_gives_what_did_not_pass_with_the_first_line_of_its_reason():
    lines = list(report.summary(found(spec("a", "passed"), spec("b", "failed", "\nrefused\nlong story"))))
    assert lines == ["failed: [sig-network] Services b\n    refused", "1 passed, 1 failed, 0 skipped"]
