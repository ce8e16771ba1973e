"""The doctor: what is wrong with a model, its tokenizer, the data and the reward.

settings     what can be asked
finding      what a check answers, and things that later checks need
patient      what is examined, opened, sampled from and scored once
rehearsal    one iteration of training at a learning rate of zero, timed
memory       what a step needs of it
model scoring tokenizer data reward scores step     the checks, a small function each
examination  all of them in order
report       the table, what to do about it, and doctor.json

To add a check, write `name(patient) -> Finding` in the module whose group it belongs to, and enter
it in that module's CHECKS.
"""

from rlhf_pg.study.doctor.examination import examine, main
from rlhf_pg.study.doctor.patient import Patient
from rlhf_pg.study.doctor.settings import DoctorConfig

__all__ = ["DoctorConfig", "Patient", "examine", "main"]
