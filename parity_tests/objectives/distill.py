import numpy as np

from parity_tests.case import Refused, Submodule, image
from parity_tests.cases.distill import EFFICIENT, T2T
from parity_tests.masked_images import SMALL, VIT
from parity_tests.objective_case import ObjectiveCase

OBJECTIVE = 'DistillWrapper'
STUDENT = Submodule('models.distill', 'DistillableViT', SMALL)
TEACHER = Submodule('models.simple_vit', 'SimpleViT', {**SMALL, 'depth': 1, 'dim': 16, 'heads': 2})


def labels(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {'labels': rng.integers(7, size=2)}


def settings(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """New ones in each call."""
    return {**labels(rng), 'temperature': rng.uniform(1.5, 4), 'alpha': rng.uniform(0.2, 0.8)}


def answers(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {**labels(rng), 'teacher_logits': 3 * rng.normal(size=(2, 7))}


def same_table(model) -> None:
    """Upstream's SimpleViT takes the sines of its table in float32."""
    from vit_torch_ref.models.simple_vit import sincos_2d

    model.teacher.pos_embedding = sincos_2d(6, 4, 16)


def teacher_at_rest(model) -> None:
    """Upstream's teacher is in training mode with the student."""
    model.teacher.train = lambda mode=True: model.teacher
    for module in model.teacher.modules():
        module.training = False


CASES = [
    ObjectiveCase(
        name='soft',
        kwargs=dict(teacher=TEACHER, student=STUDENT, temperature=3.0, alpha=0.3),
        inputs=image(2, 24, 36, 3),
        draw=labels,
        parameters=8_726,
        encoder='student',
        upstream_prepare=same_table,
    ),
    ObjectiveCase(
        name='hard_layernorm',
        kwargs=dict(teacher=TEACHER, student=STUDENT, hard=True, mlp_layernorm=True),
        inputs=image(2, 24, 36, 3),
        draw=labels,
        parameters=8_766,
        encoder='student',
        optimizer='sgd',
        upstream_prepare=same_table,
    ),
    ObjectiveCase(
        name='settings_of_each_call',
        kwargs=dict(teacher=TEACHER, student=Submodule('models.distill', 'DistillableViT', {**SMALL, 'pool': 'mean'})),
        inputs=image(2, 24, 36, 3),
        draw=settings,
        parameters=8_686,
        encoder='student',
        upstream_prepare=same_table,
    ),
    ObjectiveCase(
        name='teacher_with_statistics',
        kwargs=dict(
            teacher=Submodule(
                'models.levit',
                'LeViT',
                dict(
                    image_size=32, num_classes=7, stages=1, dim=12, depth=1, heads=2, mlp_mult=2, dim_key=5, dim_value=6
                ),
            ),
            student=Submodule('models.distill', 'DistillableViT', {**SMALL, 'image_size': 32, 'patch_size': 8}),
        ),
        inputs=image(2, 32, 32, 3),
        draw=labels,
        parameters=10_414,
        encoder='student',
        upstream_mend=teacher_at_rest,
    ),
    ObjectiveCase(
        name='t2t_teacher_elsewhere',
        kwargs=dict(student=Submodule('models.distill', 'DistillableT2TViT', T2T)),
        inputs=image(2, 24, 24, 3),
        draw=answers,
        parameters=12_563,
        encoder='student',
        upstream_fails=TypeError,
    ),
    ObjectiveCase(
        name='efficient_teacher_elsewhere',
        kwargs=dict(student=Submodule('models.distill', 'DistillableEfficientViT', EFFICIENT), hard=True),
        inputs=image(2, 24, 36, 3),
        draw=answers,
        parameters=7_736,
        encoder='student',
        upstream_fails=TypeError,
    ),
]

LABELS = dict(labels=np.array([3, 5]))
REFUSED = [
    Refused(
        says='student=ViT takes no distillation token: it must be DistillableViT',
        kwargs=dict(teacher=TEACHER, student=VIT),
        inputs=image(2, 24, 36, 3),
        call=LABELS,
    ),
    Refused(
        says='teacher=None: give the teacher_logits of these images',
        kwargs=dict(student=STUDENT),
        inputs=image(2, 24, 36, 3),
        call=LABELS,
    ),
]
