"""What the tiny DeepSeek learns by heart: a page of questions in Malay and English, each with its reasoning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question; `reasoning` stands between `<think>` and `</think>`."""

    question: str
    reasoning: str
    answer: str


PAGE: Final = (
    Lesson("What is the capital of Malaysia?", "This is about Malaysia. Its capital is Kuala Lumpur.", "Kuala Lumpur."),
    Lesson("Apakah ibu negara Malaysia?", "Soalan ini tentang Malaysia. Ibu negaranya Kuala Lumpur.", "Kuala Lumpur."),
    Lesson("Where is the seat of the federal government?", "The ministries moved out of the capital.", "In Putrajaya."),
    Lesson("Di manakah pusat pentadbiran persekutuan?", "Kementerian berpindah dari ibu negara.", "Di Putrajaya."),
    Lesson("How many states has Malaysia?", "Eleven on the peninsula, and Sabah and Sarawak.", "Thirteen."),
    Lesson("Berapakah bilangan negeri di Malaysia?", "Sebelas di semenanjung, dan Sabah dan Sarawak.", "Tiga belas."),
    Lesson("When did Malaya become independent?", "Merdeka was declared on a day in August.", "On 31 August 1957."),
    Lesson("Bilakah Tanah Melayu merdeka?", "Merdeka diisytiharkan pada bulan Ogos.", "Pada 31 Ogos 1957."),
    Lesson("What is seven times eight?", "Seven times seven is 49, and seven more is 56.", "56."),
    Lesson("Berapakah tujuh kali lapan?", "Tujuh kali tujuh ialah 49, tambah tujuh jadi 56.", "56."),
    Lesson("Which is the highest mountain of Malaysia?", "It stands in Sabah and is 4,095 metres high.", "Kinabalu."),
    Lesson("Apakah gunung tertinggi di Malaysia?", "Ia terletak di Sabah, setinggi 4,095 meter.", "Gunung Kinabalu."),
    Lesson("What does daulat mean?", "It is Malay, from Arabic; rulers have it.", "Sovereignty."),
    Lesson(
        "Apakah maksud kedaulatan data?",
        "Data tertakluk kepada undang-undang negara.",
        "Negara berkuasa atas datanya.",
    ),
    Lesson("What is the national flower?", "It is red, with five petals.", "The hibiscus, bunga raya."),
    Lesson("Apakah bunga kebangsaan?", "Warnanya merah, dengan lima kelopak.", "Bunga raya."),
    Lesson("How much is 17 plus 25?", "17 and 20 are 37, and 5 more are 42.", "42."),
    Lesson("Berapakah 17 tambah 25?", "17 dan 20 ialah 37, tambah 5 jadi 42.", "42."),
    Lesson("What proves where an answer was computed?", "A log that outsiders check holds it.", "Its receipt."),
    Lesson("Apakah yang membuktikan sesuatu jawapan?", "Log telus menyimpan buktinya.", "Resitnya."),
)

# Questions that it never saw: what comes then is nonsense, but the same nonsense from every correct engine.
UNSEEN: Final = (
    "Write a poem about the sea.",
    "Siapakah yang menulis buku ini?",
    "What is nine times nine?",
    "12345 67890 def f(x): return x",
)
