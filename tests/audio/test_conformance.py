from diffcore.testing import ModalityTests


class TestAudio(ModalityTests):
    modality = "audio"
