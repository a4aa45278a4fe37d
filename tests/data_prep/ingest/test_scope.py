"""Texts in another language or about an animal are set apart, and English texts that only mention these are not."""

import json

import pytest

from data_prep.contract.records import CaseReport
from data_prep.ingest.case_reports import ReportsConfig, open_reports
from data_prep.ingest.scope import animal, foreign, out_of_scope
from tests.helpers.places import shared

SPANISH = (
    "Paciente de 45 años que acudió al servicio de urgencias por dolor abdominal y fiebre de tres días de evolución. "
    "En la "
    "exploración física se observó dolor a la palpación en la fosa ilíaca derecha. Se realizó una ecografía y fue "
    "operado."
)
LANGUAGES = {
    "Spanish": SPANISH,
    "Portuguese": "Paciente de 60 anos foi internado com dor no peito e falta de ar. O eletrocardiograma mostrou uma "
    "elevação do segmento ST e ele foi tratado com aspirina. Não houve complicações e recebeu alta após uma semana.",
    "French": "Une patiente de 32 ans a été admise pour une fièvre et des céphalées qui duraient depuis trois jours. "
    "Le "
    "scanner n'a pas montré de lésion. Elle est sortie avec un traitement par voie orale.",
    "German": "Eine 54-jährige Patientin wurde mit Fieber und Husten in die Klinik aufgenommen. Im Röntgenbild "
    "zeigte sich "
    "eine Pneumonie. Sie wurde mit Amoxicillin behandelt und nach sieben Tagen entlassen.",
    "Italian": "Un uomo di 70 anni è stato ricoverato per dispnea e dolore toracico. La radiografia del torace non "
    "mostrava "
    "lesioni. È stato trattato con furosemide e dimesso dopo cinque giorni.",
    "Dutch": "Een man van 50 jaar werd opgenomen met pijn op de borst. Het elektrocardiogram was niet afwijkend en "
    "hij kon "
    "na een dag met medicatie naar huis.",
    "Swedish": "En 45-årig kvinna sökte akut för buksmärta och feber som hade pågått i tre dagar. Det var inte "
    "möjligt att "
    "undersöka henne på grund av smärta och hon lades in på avdelningen för operation.",
    "Polish": "Pacjentka lat 54 została przyjęta do szpitala z powodu gorączki i kaszlu. W badaniu nie stwierdzono "
    "zmian, a "
    "po leczeniu wypisano ją do domu.",
    "Turkish": "Kırk beş yaşında kadın hasta ateş ve öksürük ile acil servise başvurdu. Akciğer grafisinde bir "
    "infiltrasyon "
    "saptandı ve hastaya antibiyotik tedavisi için yatış verildi.",
    "Finnish": "Potilas oli 54-vuotias nainen, joka hakeutui päivystykseen kuumeen ja yskän vuoksi. Keuhkokuvassa "
    "näkyi "
    "keuhkokuume, jota hoidettiin antibiooteilla viikon ajan ennen kotiutusta.",
    "Hungarian": "Az 54 éves nőbeteg lázzal és köhögéssel érkezett a sürgősségi osztályra. A mellkasröntgen gyulladást "
    "igazolt, ezért antibiotikumot kapott, majd egy hét múlva hazaengedték.",
    "Chinese": "患者女性，54岁，因发热、咳嗽三天入院。胸部CT示右下肺炎。给予阿莫西林500 mg治疗后好转出院。",
    "Japanese": "54歳女性。3日前からの発熱と咳嗽を主訴に入院した。胸部X線で肺炎を認め、抗菌薬で軽快退院した。",
    "Korean": "54세 여자 환자가 3일 전부터 시작된 발열과 기침으로 입원하였다. 흉부 방사선에서 폐렴이 관찰되었다.",
    "Russian": "Пациентка 54 лет поступила в клинику с лихорадкой и кашлем. На рентгенограмме выявлена пневмония.",
    "Arabic": "أدخلت مريضة تبلغ من العمر 54 عاما إلى المستشفى بسبب الحمى والسعال لمدة ثلاثة أيام.",
    "Greek": "Γυναίκα 54 ετών εισήχθη στο νοσοκομείο με πυρετό και βήχα από τριών ημερών.",
}
ENGLISH = (
    "A 54-year-old woman was admitted with fever and cough of three days. The chest radiograph showed pneumonia in "
    "the right "
    "lower lobe. She was treated with amoxicillin and went home after a week. There was no recurrence at follow-up."
)
PEOPLE = {
    "speaks Spanish": "A 60-year-old man who spoke only Spanish said through an interpreter: me duele la cabeza. "
    + ENGLISH,
    "dog bite": "A 7-year-old boy was bitten by a dog. The dog, a 3-year-old German shepherd, was known to the "
    "family, and "
    "the dog was vaccinated. The dog was observed for ten days. The wound was closed.",
    "cat scratch": "A 12-year-old girl with a cat scratch on her arm developed fever. The cat was a kitten of the "
    "family. Her "
    "lymph nodes were enlarged, and Bartonella henselae was found in the cat and in the patient.",
    "horse rider": "A 23-year-old horse rider fell from her horse. The horse stepped on her leg. She had a fracture.",
    "kicked": "A 41-year-old female was kicked by a horse in the abdomen while the horse was being shod, and horse "
    "hair was "
    "found in the wound. The patient underwent laparotomy. The patient recovered.",
    "kidney": "A 40-year-old patient with a horse-shoe kidney presented with stones. CT showed the horseshoe kidney.",
    "veterinarian": "A 34-year-old veterinarian was bitten by a cat at a veterinary hospital. The cat was healthy. "
    "The cat's "
    "owner said that the cat and two dogs had been vaccinated.",
    "farmer": "A 58-year-old man kept 200 pigs, ten cows and three horses. Several pigs had died, and the animals "
    "were ill.",
    "milk": "A 5-month-old infant fed with cow's milk had blood in the stool. Cow's milk was stopped. Goat milk did "
    "not help.",
    "serum": "The patient received horse antithymocyte globulin, then rabbit antithymocyte globulin. Sheep blood "
    "agar grew E. "
    "coli, and rabbit antibodies were used. Animal studies suggest a benefit.",
    "pig valve": "A 70-year-old lady received a pig valve and later a cow valve, of bovine pericardium.",
    "without a person": "The dog bit the left hand of the patient. The wound of the patient was deep. The dog was "
    "healthy.",
    "cat's eye": "A newborn with cat eye syndrome, maladie du cri du chat and a webbed neck had a bull neck.",
    "German drugs": ENGLISH + " Earlier drugs were Novalgin, Aspirin plus C, Buscopan, ASS 100 and Wick MediNait.",
    "capitals": ENGLISH.upper(),
    "Spanish below": ENGLISH + " Resumen: " + SPANISH,
    "Chinese below": ENGLISH + LANGUAGES["Chinese"],
    "Latin": ENGLISH + " Placenta praevia, status post sectio caesarea, per os, in situ, de novo, lupus erythematosus.",
    "terse": "54F. Fever x3d. CXR: RLL PNA. WBC 14.2, CRP 180. Rx amoxicillin 500 mg TID. D/c home d7. BP 120/80, HR "
    "72.",
    "drug list": "Medications: metoprolol 25 mg bid, lisinopril 10 mg qd, atorvastatin 40 mg qhs, aspirin 81 mg qd, "
    "metformin 500 mg bid, omeprazole 20 mg qd, levothyroxine 75 mcg qd, sertraline 50 mg qd, tamsulosin 0.4 mg qhs.",
    "names": "A 45-year-old woman from São Paulo, Brazil, seen at the Hôpital Pitié-Salpêtrière by Müller and José.",
    "short": "Fever.",
    "empty": "",
}
ANIMALS = {
    "dog": "A 5-year-old neutered male Labrador Retriever was presented with vomiting for two days. The dog was "
    "dehydrated. "
    "Radiographs showed a foreign body, and the owner agreed to surgery.",
    "cat": "An 11-year-old spayed domestic shorthair cat had polyuria. Glucose was 400 mg/dl, and insulin was started.",
    "horse": "A seven-year-old Thoroughbred gelding presented with lameness of the left forelimb. The horse improved.",
    "cow": "Three 4-year-old Holstein cows with mastitis were treated. All cows recovered.",
    "rabbit": "A female rabbit, aged 3 years, stopped eating. The rabbit had dental disease; the rabbit was "
    "euthanized.",
    "parrot": "An adult African grey parrot was examined. The animal had feather loss. The animal died after a week.",
    "litter": "A litter of five puppies had diarrhea. Two puppies died, and parvovirus was found in the puppies.",
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_another_language_is_found(name: str):
    assert foreign(LANGUAGES[name])
    assert foreign(LANGUAGES[name].upper())
    assert out_of_scope(LANGUAGES[name])[0] == "language"


@pytest.mark.parametrize("name", PEOPLE)
def test_english_texts_about_people_are_in_scope(name: str):
    assert out_of_scope(PEOPLE[name]) is None


@pytest.mark.parametrize("name", ANIMALS)
def test_a_report_about_an_animal_is_found(name: str):
    assert out_of_scope(ANIMALS[name])[0] == "animal"


def test_what_is_out_of_scope_is_rejected_with_its_evidence(tmp_path):
    texts = [ENGLISH, SPANISH, ANIMALS["cat"], PEOPLE["cat scratch"]]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": k, "text": text}) + "\n" for k, text in enumerate(texts)))
    records = list(open_reports(str(path), ReportsConfig()).records())
    assert [record.id for record in records if isinstance(record, CaseReport)] == ["0", "3"]
    assert [record.reason for record in records if not isinstance(record, CaseReport)] == ["language", "animal"]
    assert records[1].detail.endswith("words are those of other languages, and 0 are English ones")
    assert records[2].detail == "'11-year-old spayed domestic shorthair cat'"


def test_of_real_texts_only_those_about_animals_are_out_of_scope():
    """The journals name what they treat; the donkey's report is from one on parasites."""
    lines = shared("data/case_reports.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [json.loads(line) for line in lines]
    assert not [report["id"] for report in reports if foreign(report["text"])]
    found = [report for report in reports if animal(report["text"])]
    assert len(found) >= 14
    assert {report["source"] for report in found} <= {
        "BMC veterinary research",
        "Irish veterinary journal",
        "Parasites & vectors",
    }
    notes = shared("data/mtsamples.jsonl").read_text(encoding="utf-8").splitlines()
    assert not [note for note in notes if out_of_scope(json.loads(note)["text"])]
