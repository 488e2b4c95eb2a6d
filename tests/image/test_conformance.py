from diffcore.testing import ModalityTests


class TestImage(ModalityTests):
    modality = "image"
