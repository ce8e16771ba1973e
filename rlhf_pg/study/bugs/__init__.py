"""Silent bugs: each a wrong function beside the right one, measured with exact expectations.

To add one: write the wrong function and a `Bug` that says in which settings to measure it, in a
list of one of the files below or of a new one. A function that no bug has replaced before is first
made a field of `Functions`, and called where `Trainer` or a setting needs it.
"""

from rlhf_pg.study.bugs import classic_bugs, collector_bugs, learner_bugs, text_bugs
from rlhf_pg.study.bugs.bug import Bug

BUGS: dict[str, Bug] = {
    bug.name: bug
    for bugs in (text_bugs, learner_bugs, collector_bugs, classic_bugs)
    for bug in bugs.BUGS
}
