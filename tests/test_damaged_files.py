"""A short campaign of damaged expert files; `make fuzz` is the long one."""

from fuzz_expert_files import FAULTS, KINDS, run_campaign


def test_no_damaged_file_goes_in_unseen():
    """Silent: another expert than was written, a model that was touched, an error that says nothing."""
    found = run_campaign(3 * len(KINDS), 7, opened=False)
    assert found.faults == []
    assert sum(counts.total() for counts in found.counts.values()) > 2 * len(KINDS)
    assert not any(counts[fault] for counts in found.counts.values() for fault in FAULTS)
