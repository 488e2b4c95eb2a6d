from diffcore.testing import ModalityTests


class TestPointCloud(ModalityTests):
    modality = "pointcloud"
