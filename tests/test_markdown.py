"""Markdown tables."""

import pytest

from distil_whisper_hf.markdown import one_line, table


def test_table_has_a_line_for_each_row():
    """Silent: a row without a rule under the header is no table, and everything after it is one paragraph."""
    assert table(("a", "b|c"), [(1, ""), ("x", None)]) == "| a | b\\|c |\n|---|---|\n| 1 |  |\n| x | None |"
    assert table(("a",), iter(())) == "| a |\n|---|"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\n# Title\t x", "a # Title x"),
        ("a | b", "a \\| b"),
        (
            "<script> </td> <!-- <?php <https://example.org>",
            "&lt;script> &lt;/td> &lt;!-- &lt;?php &lt;https://example.org>",
        ),
        ("<0.001 and 1 < 2", "<0.001 and 1 < 2"),
        ("<|ca|>", "<\\|ca\\|>"),
        (0.5, "0.5"),
    ],
)
def test_text_cannot_leave_its_cell(text, expected):
    """Silent: a name that ends its cell or table and adds to a card what it likes; a p-value that turns into a code."""
    assert one_line(text) == expected
