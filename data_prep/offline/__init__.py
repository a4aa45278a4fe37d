"""The offline teacher: rules that re-arrange and quote, so that nothing is invented. Standard library only."""

from data_prep.offline.note import write_note
from data_prep.offline.teacher import OfflineTeacher, answer_question, ask_question
from data_prep.offline.view import NOT_STATED

__all__ = ["NOT_STATED", "OfflineTeacher", "answer_question", "ask_question", "write_note"]
