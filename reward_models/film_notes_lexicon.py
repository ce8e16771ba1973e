"""The words of the film-notes language and how they agree.

A note is lower case, with single spaces between words and punctuation, so that a word-level
tokenizer covers it. The generator (`scripts/make_data.py`) and the parser share these tables.
"""

# How a noun takes its article and its verb: "a clever plot is", "clever dialogue is", "jokes are".
NOUNS = {
    "plot": "count", "ending": "count", "opening": "count", "pace": "count", "cast": "count",
    "acting": "mass", "dialogue": "mass", "music": "mass", "camera work": "mass",
    "lighting": "mass", "jokes": "plural", "songs": "plural", "costumes": "plural",
    "sets": "plural",
}  # fmt: skip
GENRES = (
    "western", "comedy", "thriller", "musical", "drama", "romance", "mystery", "adventure",
    "cartoon", "war film", "heist film", "ghost story", "fairy tale", "road movie",
)  # fmt: skip
PROMPTS = (
    "review of {a_genre} , on the {noun} :",
    "notes on {a_genre} , above all the {noun} :",
    "{a_genre} : how {be} the {noun} ?",
)

STORY = ("plot", "ending", "opening")
TALK = ("dialogue", "jokes")
SOUND = ("music", "songs")
LOOK = ("camera work", "lighting", "costumes", "sets")
ALL = (*NOUNS, "film")
MOST = tuple(noun for noun in ALL if noun != "pace")

# Word: (valence, the nouns it suits). Beside any other noun it reads oddly and is worth nothing.
ADJECTIVES: dict[str, tuple[float, tuple[str, ...]]] = {
    "superb": (1.5, ALL),
    "brilliant": (1.5, MOST),
    "wonderful": (1.5, MOST),
    "great": (1.5, ALL),
    "good": (0.5, ALL),
    "pleasant": (0.5, (*SOUND, *LOOK, "cast", "pace", "film")),
    "gripping": (1.0, (*STORY, "film")),
    "clever": (1.0, (*STORY, *TALK, "camera work", "film")),
    "moving": (1.0, ("plot", "ending", "acting", *SOUND, "film")),
    "funny": (1.0, (*TALK, "cast", "opening", "film")),
    "witty": (1.0, (*TALK, "songs")),
    "lovely": (1.0, (*SOUND, *LOOK, "ending")),
    "elegant": (1.0, LOOK),
    "charming": (1.0, ("cast", "songs", "costumes", "dialogue", "film")),
    "catchy": (0.5, SOUND),
    "natural": (0.5, ("acting", "dialogue", "lighting")),
    "lively": (0.5, ("pace", "cast", "dialogue", *SOUND)),
    "tight": (0.5, ("plot", "pace")),
    "sharp": (0.5, (*TALK, "camera work")),
    "bold": (0.5, ("camera work", "costumes", "sets", "opening")),
    "warm": (0.5, ("lighting", "cast", "acting")),
    "awful": (-1.5, ALL),
    "terrible": (-1.5, ALL),
    "poor": (-1.0, ALL),
    "bad": (-1.0, ALL),
    "dull": (-0.5, ALL),
    "boring": (-1.0, (*STORY, "dialogue", *SOUND, "film")),
    "weak": (-0.5, (*STORY, *TALK, "acting", "cast", "film")),
    "slow": (-0.5, ("pace", "plot", "opening", "film")),
    "silly": (-0.5, ("plot", "ending", "dialogue", "costumes", "film")),
    "clumsy": (-0.5, ("camera work", "dialogue", "plot", "pace")),
    "wooden": (-1.0, ("acting", "dialogue", "cast")),
    "stale": (-0.5, (*TALK, "plot")),
    "tired": (-0.5, ("jokes", "songs", "plot")),
    "loud": (-0.5, SOUND),
    "shaky": (-0.5, ("camera work",)),
    "dim": (-0.5, ("lighting",)),
    "flat": (-0.5, ("lighting", "acting", "dialogue")),
    "cheap": (-0.5, ("costumes", "sets")),
    "messy": (-0.5, ("plot", "ending", "camera work")),
    "predictable": (-0.5, (*STORY, "jokes", "film")),
    "forgettable": (-0.5, (*SOUND, "costumes", "sets", "cast", "film")),
    "uneven": (-0.5, ("pace", "acting", "cast", *TALK, "songs")),
}
# Verb phrases, in the singular; the plural drops the s: "the jokes work well".
PREDICATES: dict[str, tuple[float, tuple[str, ...]]] = {
    "works well": (0.5, tuple(noun for noun in ALL if noun != "camera work")),
    "saves the film": (1.0, MOST),
    "stays with you": (1.0, ("plot", "ending", "opening", *SOUND)),
    "falls flat": (-0.5, (*STORY, *TALK, "acting", "songs")),
    "wears thin": (-0.5, ("plot", "jokes", "songs")),
    "lets the film down": (-1.0, ALL),
}
INTENSIFIERS = {
    "truly": 1.4, "very": 1.4, "simply": 1.3, "really": 1.3, "too": 1.2, "quite": 0.8,
    "rather": 0.8,
}  # fmt: skip
FEELINGS = {
    "loved": 1.5, "enjoyed": 1.0, "admired": 1.0, "liked": 0.5, "disliked": -1.0, "hated": -1.5,
}  # fmt: skip
UNFELT = {"enjoy": 1.0, "like": 0.5}  # "i did not enjoy the songs"
NEGATION = -0.7  # "not good" is milder than "bad"; "not very good" counts as "not good"

VERDICTS = {
    "do not miss it": 0.8,
    "i would see it again": 0.5,
    "it is worth your time": 0.5,
    "we left with a smile": 0.5,
    "bring all your friends": 0.5,
    "it is fine for a quiet evening": 0.2,
    "it passes the time": 0.2,
    "i am in two minds about it": 0.0,
    "once is enough": -0.2,
    "it could be better": -0.2,
    "you can skip it": -0.5,
    "it is not worth your time": -0.5,
    "i would not see it again": -0.5,
    "we left early": -0.5,
    "save your money": -0.8,
}
FACTS = (
    "the film runs for two hours",
    "the film runs for ninety minutes",
    "the film is set in a small town",
    "the film is set in a big city",
    "the film is set on an island",
    "the film follows two sisters",
    "the film follows an old sailor",
    "the film follows a young doctor",
    "the film is based on a novel",
    "the film opens with a wedding",
    "the film opens with a storm",
    "there is a dog in it",
    "there is a long chase in it",
    "we saw it on a rainy sunday",
    "we saw it on a quiet evening",
    "the room was half empty",
    "the room was nearly full",
)
# The words of the frames that hold the tables together. Saying one of them twice is natural.
FUNCTION_WORDS = frozenset(
    "the a an this is are was has did it i we you not never and but while film in on with"
    " , .".split()
)


def be(noun: str) -> str:
    """The form of "to be" that agrees with a noun."""
    return "are" if NOUNS[noun] == "plural" else "is"


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def noun_phrase(noun: str, adjectives: str) -> str:
    """An adjective, perhaps intensified, before a noun, with an article if the noun takes one."""
    phrase = f"{adjectives} {noun}"
    return article(phrase) if NOUNS[noun] == "count" else phrase


def conjugate(predicate: str, noun: str) -> str:
    """A verb phrase that agrees with a noun."""
    verb, _, rest = predicate.partition(" ")
    return f"{verb[:-1]} {rest}" if NOUNS[noun] == "plural" else predicate


def _vocabulary() -> list[str]:
    tables = (NOUNS, GENRES, ADJECTIVES, INTENSIFIERS, FEELINGS, UNFELT, VERDICTS, FACTS)
    phrases = [phrase for table in tables for phrase in table]
    phrases += [conjugate(predicate, noun) for predicate in PREDICATES for noun in NOUNS]
    phrases += [prompt.format(a_genre="a", noun="", be="is") for prompt in PROMPTS]
    return sorted(FUNCTION_WORDS.union(*(phrase.split() for phrase in phrases)))


VOCABULARY = _vocabulary()
"""Every word of prompts and notes, sorted."""
