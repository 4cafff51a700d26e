"""Other answers than a score and a feedback: yes or no, several scores, the edited image alone; and keys that stay."""

import io

import pytest
from PIL import Image

from rewardedit_jax.data.encoded import EncodedEdit
from rewardedit_jax.data.records import BadRecords
from rewardedit_jax.judging.answers import AnswerForm, NoVerdict, Verdict, read_answer
from rewardedit_jax.judging.chat import chat_request
from rewardedit_jax.judging.images import AREA, AS_SOURCE, ImageSettings
from rewardedit_jax.judging.judges import stored_questions
from rewardedit_jax.judging.questions import EDITED_FIRST, SOURCE_FIRST, Question, ask_each
from rewardedit_jax.judging.rubrics import EDITED, Rubric, read_rubrics
from rewardedit_jax.judging.store import Store

YES = AnswerForm(yes_no="following")
TWO = AnswerForm("reasoning", scores=2, worst=0.0, best=10.0)


def test_keys_of_stored_answers_stay():
    """Answers of launch/label.py that were paid for are found again: these identifiers were computed before forms."""
    rubrics = {name: rubric.digest for name, rubric in read_rubrics().items()}
    assert rubrics == {"following": "8d50c70fbc5f", "preserving": "bdf6f6b2e290", "quality": "4f072dbf541b"}
    asked = ask_each("openai", "gpt-4o", rubrics, ImageSettings().name, repeat=2, swap=True)
    assert [question.id.hex() for question in asked] == [
        *("7e252b7e30712a9d", "0482ec35aa961874", "de405d2bfa1586d1", "99de3e9148d57f2d", "26f0eb5b2e066a65"),
        *("8fcaeffa7ae8796e", "2f93ae9323c49473", "d09824ab2d6fa175", "a616cb80db4ba37f"),
    ]
    scorer = ask_each("scorer", "abc", dict.fromkeys(rubrics, ""))
    assert [q.id.hex() for q in scorer] == ["4929f3c4157f25ec", "946123952b19a728", "51b8b7c96a564cb9"]


@pytest.mark.parametrize(
    ("form", "text", "verdict"),
    [
        (YES, '{"following": "yes", "score": 3}', Verdict(3.0, "", yes=True)),
        (YES, 'Well: {"score": 4.5, "following": " No "}', Verdict(4.5, "", repaired=True, yes=False)),
        # The one leniency: a judge that writes scores only leaves the yes or no open.
        (YES, '{"score": 4}', Verdict(4.0, "")),
        (YES, '{"score": 4, "feedback": "None"}', Verdict(4.0, "None")),
        (TWO, '{"score": [7, 3], "reasoning": "x"}', Verdict(3.0, "x", scores=(7.0, 3.0))),
        (TWO, '{"score": [0, 10.0], "reasoning": ""}', Verdict(0.0, "", scores=(0.0, 10.0))),
    ],
)
def test_answers_in_another_form(form, text, verdict):
    assert read_answer(text, "stop", form) == verdict


@pytest.mark.parametrize(
    ("form", "text", "reason"),
    [
        (YES, '{"following": "yes"}', "wrong keys"),
        (YES, '{"following": "maybe", "score": 3}', "wrong keys"),
        (YES, '{"following": true, "score": 3}', "wrong keys"),
        (YES, '{"clear": "yes", "score": 3}', "wrong keys"),
        (YES, '{"following": "yes", "score": 6}', "out of range"),
        (TWO, '{"score": 5, "reasoning": "x"}', "out of range"),
        (TWO, '{"score": [5], "reasoning": "x"}', "out of range"),
        (TWO, '{"score": [5, 5, 5], "reasoning": "x"}', "out of range"),
        (TWO, '{"score": [5, 11], "reasoning": "x"}', "out of range"),
        (TWO, '{"score": [5, true], "reasoning": "x"}', "out of range"),
        (TWO, '{"score": [5, NaN], "reasoning": "x"}', "out of range"),
        (TWO, '{"score": [5, 5], "feedback": "x"}', "wrong keys"),
        (AnswerForm(), '{"score": [5], "feedback": "x"}', "out of range"),
        (AnswerForm(), '{"score": 5}', "wrong keys"),
    ],
)
def test_what_another_form_refuses(form, text, reason):
    found = read_answer(text, "stop", form)
    assert isinstance(found, NoVerdict)
    assert found.reason == reason


def asked_for(rubric, order=SOURCE_FIRST):
    question = Question("openai", "m", rubric.measure, rubric.digest, "", order, 0)
    return chat_request(question, rubric, "make it snow", ("data:a", "data:b"), 50)


def images_of(body):
    content = body["messages"][0]["content"]
    return [part["image_url"]["url"] for part in content if part["type"] == "image_url"]


def test_a_request_shows_the_images_of_its_rubric_and_asks_for_its_form():
    both = Rubric("following", "Was it done? {instruction}", YES)
    alone = Rubric("quality", "Is it good?", TWO, (EDITED,), needs_instruction=False)
    assert images_of(asked_for(both)) == ["data:a", "data:b"]
    assert images_of(asked_for(both, EDITED_FIRST)) == ["data:b", "data:a"]
    assert images_of(asked_for(alone)) == images_of(asked_for(alone, EDITED_FIRST)) == ["data:b"]
    texts = [part["text"] for part in asked_for(both)["messages"][0]["content"] if part["type"] == "text"]
    assert texts[0] == "Was it done? make it snow"
    schemas = [asked_for(rubric)["response_format"]["json_schema"]["schema"] for rubric in (both, alone)]
    assert [schema["required"] for schema in schemas] == [["following", "score"], ["score", "reasoning"]]
    assert schemas[0]["properties"]["following"]["enum"] == ["yes", "no"]
    assert schemas[1]["properties"]["score"] == {"type": "array", "items": {"type": "number"}}


def test_one_text_in_two_forms_is_two_questions():
    plain = Rubric("quality", "Is it good?")
    others = [Rubric("quality", "Is it good?", *more) for more in ((YES,), (AnswerForm(), (EDITED,)), (YES, (EDITED,)))]
    assert plain.digest == plain.text_digest
    assert len({plain.digest, *(rubric.digest for rubric in others)}) == 4
    assert {rubric.text_digest for rubric in others} == {plain.digest}


def test_rubrics_of_other_measures(tmp_path):
    asked = (Rubric("semantic_consistency", form=TWO), Rubric("look", shows=(EDITED,), needs_instruction=False))
    (tmp_path / "semantic_consistency.txt").write_text("{instruction}?")
    with pytest.raises(BadRecords, match=r"look\.txt: expected semantic_consistency\.txt, look\.txt"):
        read_rubrics(tmp_path, asked)
    (tmp_path / "look.txt").write_text("Good?")
    found = read_rubrics(tmp_path, asked)
    assert found["semantic_consistency"].form == TWO
    assert found["look"].shows == (EDITED,)
    assert list(found) == ["semantic_consistency", "look"]


def test_a_store_may_have_answers_about_other_measures(tmp_path):
    labels = ask_each("openai", "m", {"following": "a", "preserving": "b", "quality": "c"})
    others = ask_each("openai", "m", {"semantic_consistency": "d", "perceptual_quality": "e"})
    with Store(tmp_path / "s", create=True) as store:
        store.add_questions([*others, *labels])
        assert stored_questions(store) == labels
        assert stored_questions(store, measures=("semantic_consistency", "perceptual_quality")) == others
        with pytest.raises(ValueError, match="no answers"):
            stored_questions(store, measures=("other",))


@pytest.mark.parametrize(
    ("settings", "name", "sizes"),
    [
        (ImageSettings("png", sizes=AS_SOURCE), "png as source", [(120, 80), (120, 80)]),
        (ImageSettings("jpeg", 60, sizes=AREA), "jpeg 60²px q95", [(73, 48), (60, 60)]),
    ],
)
def test_sizes_of_sent_images(settings, name, sizes, monkeypatch):
    sent = []
    monkeypatch.setattr(ImageSettings, "_encoded", lambda self, image: sent.append(image.size) or "")
    files = []
    for size in ((120, 80), (32, 32)):
        files.append(file := io.BytesIO())
        Image.new("RGB", size).save(file, "png")
    settings.data_urls(EncodedEdit("k", "i", *(file.getvalue() for file in files)))
    assert settings.name == name
    assert sent == sizes


def test_unknown_sizes():
    with pytest.raises(ValueError, match="sizes='other'"):
        ImageSettings(sizes="other")
