"""The rooms in order."""

from rlhf_pg.study.bugs import (
    inverted_whitening,
    kl_sign,
    lambda_ignored,
    mask_dropped,
    no_position_ids,
    no_temperature,
    pad_is_eos,
    reset_step,
    score_on_pad,
    truncation_as_end,
    unmasked_whitening,
)
from rlhf_pg.study.bugs.exhibit import Exhibit

EXHIBITS: dict[str, Exhibit] = {
    room.EXHIBIT.name: room.EXHIBIT
    for room in (
        kl_sign,
        score_on_pad,
        pad_is_eos,
        no_temperature,
        no_position_ids,
        unmasked_whitening,
        inverted_whitening,
        lambda_ignored,
        mask_dropped,
        truncation_as_end,
        reset_step,
    )
}
