from diffcore.testing import ModalityTests


class TestMolecule(ModalityTests):
    modality = "molecule"
