"""The parts of `asclepius evaluate` in the order of an evaluation, for the command line.

Each row: name, summary, module of this package, its dataclass of settings, and two examples of arguments.
"""

PARTS = (
    (
        "power", "plan a study: the difference that patients and raters detect", "protocol.power_table", "PowerConfig",
        ("--patients 20 60 100 --raters 2 4", "--sd-patient 0.4 --sd-rater 0.2 --sd-residual 0.9 --out power.json"),
    ),
    (
        "prespecify", "write down what the report will test, before the scores are seen", "protocol.prespecify",
        "PrespecifyConfig",
        (
            "--out prespecification.json --endpoint clinicians --models mine base --baseline base --patients 60 "
            "--raters 4",
            "--out prespecification.json --endpoint gpt-4o --models a b c --patients 100 --no-by-task --margin 0.2",
        ),
    ),
    (
        "questions", "choose the questions that models will answer", "questions.questions", "QuestionsConfig",
        (
            "--source data/split/held_out --out evaluation/questions --per-task 60",
            "--source questions.csv --out evaluation/questions",
        ),
    ),
    (
        "benchmark", "turn a published data set into questions with known answers", "questions.registry",
        "SetConfig",
        (
            "--set medec --source medec.csv --out evaluation/medec",
            "--set mimic-iv --source discharge.csv --out evaluation/mimic --limit 500",
        ),
    ),
    (
        "answers", "have models answer the questions", "answers.answers", "AnswersConfig",
        (
            "--questions evaluation/questions --out evaluation/answers --models mine=hf:models/mine",
            "--questions evaluation/questions --out evaluation/answers --models gpt=endpoint:gpt-4o",
        ),
    ),
    (
        "score", "score answers against known ones, without a judge", "known_answers.score", "ScoreConfig",
        (
            "--questions evaluation/medec --answers evaluation/answers",
            "--questions evaluation/medec --answers evaluation/answers --by note_type --json scores.json",
        ),
    ),
    (
        "plant", "write answers with known errors, which measure a judge", "judge.plant", "PlantConfig",
        (
            "--source data/split/held_out --out calibration",
            "--source data/split/held_out --medec medec.csv --out calibration",
        ),
    ),
    (
        "judge", "have a chat model judge the answers", "judge.judge", "JudgeConfig",
        (
            "--questions evaluation/questions --answers evaluation/answers --out evaluation/judged --model gpt-4o",
            "--questions evaluation/questions --answers evaluation/answers --out evaluation/rules --model rules",
        ),
    ),
    (
        "claims", "split answers into claims and check each against its note", "judge.claims", "ClaimsConfig",
        (
            "--questions evaluation/questions --answers evaluation/answers --out evaluation/claims --model gpt-4o",
            "--questions q --answers a --out claims --model NAME --base-url http://localhost:8000/v1",
        ),
    ),
    (
        "citations", "check which sentences of the note answers cite", "audits.citations", "CitationsConfig",
        (
            "--questions evaluation/questions --answers evaluation/answers --out citations.json",
            "--questions evaluation/questions --answers evaluation/answers/mine evaluation/answers/base",
        ),
    ),
    (
        "study", "set up a blinded study for clinicians", "clinicians.study", "StudyConfig",
        (
            "--questions evaluation/questions --answers evaluation/answers --out study --raters Ito Okafor",
            "--questions evaluation/questions --answers evaluation/answers --out study --raters A B --items 40",
        ),
    ),
    (
        "serve", "serve the scoring page to clinicians", "clinicians.serve", "ServeConfig",
        ("--study study", "--study study --host 0.0.0.0 --port 8443"),
    ),
    (
        "paper", "print the scoring forms, and read them back from CSV", "clinicians.paper", "PaperConfig",
        ("--study study --out forms.html", "--study study --back-in filled_in.csv"),
    ),
    (
        "ratings", "export the clinicians' ratings by model", "clinicians.ratings", "RatingsConfig",
        ("--study study --key study/key.json --out ratings", "--study study --key key.json --out ratings/ward-7"),
    ),
    (
        "realism", "measure how synthetic notes differ from real ones", "audits.realism", "RealismConfig",
        (
            "--scorer models/base --sources mine=data/notes real=data/real --real real --out realism.json",
            "--scorer models/base --sources mine=data/notes theirs=published.csv --out realism.json",
        ),
    ),
    (
        "canaries", "plant secrets in training notes, for the privacy audit", "audits.canaries", "CanariesConfig",
        ("--source data/notes --out data/canaries", "--source data/notes --out data/canaries --each 4"),
    ),
    (
        "privacy", "measure what a model memorized of its training notes", "audits.privacy", "PrivacyConfig",
        (
            "--model models/mine --trained-on data/notes --held-out data/held_out --out privacy.json",
            "--model models/mine --trained-on data/canaries --canaries data/canaries --out privacy.json",
        ),
    ),
    (
        "forgetting", "measure loss on general text before and after training", "audits.forgetting",
        "ForgettingConfig",
        (
            "--before models/base --after models/mine --texts general.jsonl --out forgetting.json",
            "--before models/base --after models/mine --texts general.txt --sample 0 --out forgetting.json",
        ),
    ),
    (
        "report", "put all results on one page", "report.report", "ReportConfig",
        (
            "--questions evaluation/questions --answers evaluation/answers --judged judged --out evaluation/report",
            "--questions q --answers a --judged judged --ratings ratings --baseline base --out report",
        ),
    ),
    (
        "demo", "run a whole evaluation on what `asclepius demo` made", "demo", "DemoConfig",
        ("", "--demo runs/demo"),
    ),
)  # fmt: skip
